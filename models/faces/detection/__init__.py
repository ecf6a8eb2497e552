"""From an image to detected, aligned and measured faces."""
