"""What a restore has to say, by whichever command it comes to its end."""

from rich.console import Console

from cli.backup.placing import Placed
from cli.console import warn


def tell(placed: Placed | None, console: Console) -> None:
    """Say where what was there before is, if there was anything."""
    for folder in placed.kept if placed is not None else ():
        warn(console, f"What was there before is in {folder}; remove it when nobody misses it.")
