"""One module for each command or group: its options and what it does. `cli.main` registers them."""
