"""`opsin faces calibrate` and `threshold`: the similarity at which two faces match."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.clients.faces import FacesApi
from cli.clients.http import JsonObject
from cli.clients.jobs import JobsApi
from cli.commands.jobs import follow_job
from cli.options import AsJson, Key, Server, To
from cli.output import answers, notes, print_json, warn
from cli.settings import load
from cli.tables import Column, print_list

_CURVE = "det.png"


def calibrate(  # noqa: PLR0917 (typer reads options from the parameters)
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="One class for each person, ds_….")
    ],
    target_fmr: Annotated[
        float | None,
        typer.Option(
            min=1e-7,
            max=0.5,
            help="The share of strangers that may match.",
            show_default="0.0001, or 0.001 if there are too few images for that",
        ),
    ] = None,
    all_faces: Annotated[
        bool, typer.Option("--all-faces", help="Also use faces that a login would refuse.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A file or folder for the curve. Default: none."),
    ] = None,
    to: To = None,
    apply: Annotated[bool, typer.Option("--apply", help="Use the threshold from now on.")] = False,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Measure the threshold for a false match rate on images of known people."""
    settings = load(key=key)
    api, jobs = FacesApi(settings, server), JobsApi(settings, server)
    request: JsonObject = {"dataset_id": dataset, "only_acceptable": not all_faces}
    if target_fmr is not None:
        request["target_fmr"] = target_fmr
    job = api.post("/calibrations", request)
    follow_job(jobs, job["id"])
    result: JsonObject = jobs.get(job["id"]).result or {}
    if target := out or to:
        jobs.fetch(job["id"], _CURVE, target / _CURVE if target.is_dir() else target)
    if as_json:
        print_json(result)
    else:
        _print_calibration(result)
    if apply:
        api.put("/threshold", {"calibration_job_id": job["id"]})
        notes().print(f"[green]✓[/] {result['threshold']:.4f} is in use")
    elif not as_json:
        notes().print("[dim]The threshold in use has not changed; --apply changes it.[/]")


def threshold(
    similarity: Annotated[
        float | None, typer.Argument(min=-1, max=1, help="Default: show the present one.")
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Show or set the similarity at which two faces match."""
    api = FacesApi(load(key=key), server)
    if similarity is not None:
        api.put("/threshold", {"similarity": similarity})
    current = api.get("/threshold")
    if as_json:
        print_json(current)
        return
    origin = ", ".join(
        str(current[name]) for name in ("source", "measured_on") if current.get(name) is not None
    )
    answers().print(f"{current['similarity']:.4f}  [dim]{escape(origin)}[/]")


def _print_calibration(result: JsonObject) -> None:
    rates = [
        ("FMR, strangers that match", result["fmr"]),
        ("FNMR, same person, no match", result["fnmr"]),
        *(
            (f"{group['group']}: {name.upper()}", group[name])
            for group in result["groups"]
            for name in ("fmr", "fnmr")
        ),
    ]
    low, high = result["threshold_interval"]
    answers().print(
        f"[bold]threshold {result['threshold']:.4f}[/]  ({low:.4f} to {high:.4f})  "
        f"{result['faces']} faces of {result['people']} people"
    )
    columns = [
        *(Column("rate of", "id"), Column("rate", "number"), Column("95% interval", "number")),
        *(Column("errors", "number"), Column("pairs", "number")),
    ]
    print_list(columns, [_rate_row(title, rate) for title, rate in rates])
    for entry in result["left_out"]:
        warn(
            notes(),
            f"{entry['person']}: {entry['pictures']} {entry['reason']}. {entry['detail']}",
        )
    for text in result["warnings"]:
        warn(notes(), text)


def _rate_row(title: str, rate: JsonObject) -> tuple[str, ...]:
    text = "" if rate["rate"] is None else f"{rate['rate']:.3%}"
    low, high = rate["interval"]
    return (title, text, f"{low:.3%} to {high:.3%}", f"{rate['errors']:,}", f"{rate['pairs']:,}")
