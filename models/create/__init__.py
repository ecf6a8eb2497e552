"""Images made by optimization: style transfer and dreams."""
