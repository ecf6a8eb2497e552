"""`opsin embed`: images in, embeddings out, by a running server."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.clients.http import ServerClient
from cli.clients.types import ImageFile
from cli.commands.classify import begun, open_table, read_batches
from cli.image_files import find_images
from cli.options import Key, Server
from cli.output import (
    CommandError,
    answers,
    errors,
    notes,
    print_error,
    print_fields,
    print_json,
)
from cli.settings import load
from cli.streams import shown
from contracts.settings import Settings

_SHOWN_NUMBERS = 6


def embed(  # noqa: PLR0917 (typer reads options from the parameters)
    photos: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE", help="Image files, - for stdin, and with --recursive also folders."
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Default: the server's first model.")] = None,
    version: Annotated[str | None, typer.Option(help="Default: champion.")] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Take the images in folders and below.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option("--csv", help="Write a line for each image to this file; - is stdout."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's JSON.")] = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Turn images into vectors: similar images get similar ones.

    On a terminal the beginning of each vector is shown; --csv and --json hold all of it.
    """
    if as_json and table is not None:
        raise CommandError("Choose one of --json and --csv.", exit_code=2)
    paths = find_images(photos, recursive=recursive)
    settings = load(key=key)
    named = {"model": model, "version": version}
    parameters = {name: value for name, value in named.items() if value is not None}
    results = _embedded(ServerClient(settings, server), paths, parameters, settings)
    if as_json:
        found = [result for _, result in results]
        print_json({"results": found})
        failed = sum("error" in result for result in found)
    else:
        failed = _write(results, table)
    if failed:
        raise CommandError(f"{failed:,} of {len(paths):,} images have no embedding.")


def _embedded(
    client: ServerClient, paths: list[Path], parameters: dict[str, str], settings: Settings
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The result of each image, in the order of the files."""
    for batch in read_batches(paths, settings.max_images, full_names=True):
        files = [
            ("image", (file.name, file.data, "image/*"))
            for _, file in batch
            if isinstance(file, ImageFile)
        ]
        found = iter(_send(client, files, parameters) if files else [])
        for path, file in batch:
            result = next(found) if isinstance(file, ImageFile) else file.model_dump(mode="json")
            yield path, {name: value for name, value in result.items() if value is not None}


def _send(
    client: ServerClient,
    files: list[tuple[str, tuple[str, bytes, str]]],
    parameters: dict[str, str],
) -> list[dict[str, Any]]:
    from cli.clients.http import RefusedError
    from cli.clients.remote import IMAGE_ERRORS, patiently

    try:
        answer = patiently(lambda: client.json("POST", "/v1/embed", params=parameters, files=files))
    except RefusedError as refused:
        if len(files) != 1 or refused.code not in IMAGE_ERRORS:
            raise
        error = {"code": refused.code, "detail": refused.detail}
        return [{"name": files[0][1][0], "error": error}]
    return list(answer["results"])


def _write(results: Iterator[tuple[Path, dict[str, Any]]], table: Path | None) -> int:
    """Write a line for each image, as soon as it is known; the number of images without one."""
    failed = 0
    if table is None:
        for path, result in results:
            failed += _print(path, result)
        return failed
    results = begun(results)
    with open_table(table) as file:
        writer = csv.writer(file, lineterminator="\n")
        for path, result in results:
            if error := result.get("error"):
                failed += 1
                print_error(errors(), f"{shown(path)}: {error['detail']}")
            else:
                writer.writerow([shown(path), *result["embedding"]])
    if str(table) != "-":
        notes().print(f"[green]✓[/] {shown(table)}", markup=True)
    return failed


def _print(path: Path, result: dict[str, Any]) -> bool:
    console = answers()
    if error := result.get("error"):
        print_error(errors(), f"{shown(path)}: {error['detail']}")
        return True
    vector = result["embedding"]
    if console.is_terminal:
        start = " ".join(f"{number:.3f}" for number in vector[:_SHOWN_NUMBERS])
        console.print(f"{shown(path)}  {len(vector)} numbers: {start} …", markup=False)
    else:
        print_fields(console, shown(path), *map(str, vector))
    return False
