"""Why a source gave nothing."""


class FetchError(Exception):
    """A source could not be used. The message is one short sentence for the user's eyes."""
