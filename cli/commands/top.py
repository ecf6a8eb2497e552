"""`opsin top`: what a running service does at this moment."""

import time
from typing import Annotated

import typer
from rich.live import Live

from cli.clients.http import NoAnswerError, ServerClient
from cli.options import Key, Server
from cli.output import CommandError, Output, answers, print_json
from cli.settings import load
from cli.top.overview import overview
from cli.top.reading import Reading, read
from cli.top.screen import screen

_REQUEST_SECONDS = 10.0
_PIPE_WIDTH = 400


def top(
    server: Server = None,
    interval: Annotated[
        float,
        typer.Option(min=0.2, max=60, help="Seconds between two looks, over which rates are."),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print once, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; only with --once.")] = False,
    key: Key = None,
) -> None:
    """Show what a running service does: models, rates, queues, jobs, processes.

    Everything comes from its metrics, so it is the same for all processes of an installation.
    Ctrl-C ends it.
    """
    if as_json and not once:
        raise CommandError("--json prints one answer: add --once.", exit_code=2)
    client = ServerClient(load(key=key), server, seconds=_REQUEST_SECONDS)
    before = read(client)
    console = answers()
    if once or not console.is_terminal:
        time.sleep(interval)
        seen = overview(before, read(client))
        if as_json:
            print_json(seen)
            return
        if not console.is_terminal:
            console.width = _PIPE_WIDTH  # nothing is shortened
        console.print(screen(seen, client.url, console.width))
        return
    _watch(client, before, interval)


def _watch(client: ServerClient, before: Reading, interval: float) -> None:
    """Show it again and again; a service that is away for a while is waited for."""
    console = Output(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        live.update("Looking …", refresh=True)
        while True:
            time.sleep(interval)
            try:
                now = read(client)
            except NoAnswerError as error:
                live.update(error.message, refresh=True)
                continue
            seen = screen(overview(before, now), client.url, console.width)
            live.update(seen, refresh=True)
            before = now
