"""Options that several commands share."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]
Key = Annotated[str | None, typer.Option(help="The server's key, if not OPSIN_API_KEY.")]
Local = Annotated[bool, typer.Option("--local", help="Use no server.")]
Server = Annotated[
    str | None, typer.Option(help="Use this server, e.g. http://gpu:8000. Default: this machine's.")
]
