"""An HTTP load generator in its own process, so that it does not slow the measured server."""
