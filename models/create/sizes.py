"""How large the results are if a request does not say."""

STYLE_SIDE = 512
"""Pixels of the longer side of what `method=optimize` makes, unless the content is smaller."""
DREAM_SIDE = 1024
"""Pixels of the longer side of a dream, unless the image is smaller."""
