"""The memory of the machine, and how much of it jobs have reserved. Free of TensorFlow."""
