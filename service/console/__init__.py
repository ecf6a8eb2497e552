"""The console: the page at `/`, which uses the public API in a browser."""
