"""The networks, and all that needs neither web nor queue."""
