"""The standard protocols as bytes and numbers: what they say, and nothing of the web."""
