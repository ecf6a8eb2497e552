"""`opsin faces`."""
