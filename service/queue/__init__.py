"""The API's end of the inference queue; `workers.inference` is the other end."""
