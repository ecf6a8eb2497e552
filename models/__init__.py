"""The networks, and all that needs neither web nor queue."""

from models import keras_import

keras_import.install()
