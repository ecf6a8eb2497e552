"""Options that several commands share, with one spelling everywhere."""

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]
Json = Annotated[bool, typer.Option("--json", help="Print the list as JSON.")]
Key = Annotated[
    str | None,
    typer.Option(help="The server's key. Default: OPSIN_API_KEY, or this machine's own key."),
]
Local = Annotated[bool, typer.Option("--local", help="Use no server.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="A file or folder. Default: here.")]


def _with_scheme(server: str | None) -> str | None:
    return server if server is None or "://" in server else f"http://{server}"


Server = Annotated[
    str | None,
    typer.Option(
        callback=_with_scheme,
        help="Use this server, e.g. http://gpu:8000. Default: this machine's.",
    ),
]
To = Annotated[Path | None, typer.Option("--to", hidden=True, help="The earlier name of --out.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
