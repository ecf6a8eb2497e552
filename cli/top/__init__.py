"""What `opsin top` shows: the present work of a running service, from its metrics."""
