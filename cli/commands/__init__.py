"""One module per `opsin` command: its options, and what it does."""
