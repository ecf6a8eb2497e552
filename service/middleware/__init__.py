"""What every request passes through: plain ASGI, so that a disconnect reaches the route."""
