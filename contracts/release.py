"""The version of Opsin that is running; a test compares it with pyproject.toml."""

RELEASE = "0.1.0"
