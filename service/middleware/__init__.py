"""What every request passes on its way in: plain ASGI, so that a hang-up reaches the route."""
