"""The `opsin` command."""
