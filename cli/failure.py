"""The one way a command says that it cannot go on: a plain line, and an exit code."""


class CommandError(Exception):
    """Shown in red on stderr without a stack trace; it says what to do about it.

    Args:
        message: What went wrong and what helps, for the person at the terminal.
        exit_code: 1 for a failure, 2 for a wrong call or setting.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
