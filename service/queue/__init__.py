"""The API end of the inference queue; `workers.inference` is the other."""
