"""How a file is fetched from somewhere else: checked while it streams, whole or not at all."""
