"""`opsin models evaluate`: how good a version is on labeled images, by a running server."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from cli.clients.http import ServerClient
from cli.clients.jobs import JobsApi
from cli.commands.jobs import follow_job
from cli.commands.sent_folder import dataset_on_server
from cli.options import AsJson, Key, Server
from cli.output import CommandError, answers, notes, print_error, print_json
from cli.output import errors as error_console
from cli.settings import load
from contracts.inference.evaluation import Comparison, EvaluatedSplit, EvaluationResult, Interval
from contracts.inference.manifest import CHAMPION
from models.datasets.layout import split_of

_UPLOAD_SECONDS = 3600.0
_VERDICTS = {
    "better": "better",
    "worse": "worse",
    "no_difference": "no difference that chance would not explain",
}


def evaluate(  # noqa: PLR0917 (typer reads options from the parameters)
    model: Annotated[
        str, typer.Argument(metavar="MODEL[@VERSION]", help="A model; its champion by default.")
    ],
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Labeled images: ds_…, or class folders.")
    ],
    against: Annotated[
        str | None, typer.Option(help="Compare with this version or alias on the same images.")
    ] = None,
    split: Annotated[
        EvaluatedSplit | None,
        typer.Option(
            help="The images to measure. Default: test, validation or all; of a folder without "
            "such folders all."
        ),
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Measure a version on labeled images, and compare it with another version.

    It is a job: Ctrl-C leaves it running.
    """
    settings = load(key=key)
    client = ServerClient(settings, server, seconds=_UPLOAD_SECONDS)
    jobs = JobsApi(settings, server)
    name, _, number = model.partition("@")
    split = split or ("all" if _has_no_splits(Path(dataset)) else None)
    body: dict[str, Any] = {"split": split} if split else {}
    if against is not None:
        body["against"] = _number(client, name, against)
    version = _number(client, name, number or CHAMPION)
    path = f"/v1/models/{quote(name, safe='')}/versions/{version}/evaluations"
    with dataset_on_server(client, jobs, Path(dataset)) as found:
        job = client.json("POST", path, json={**body, "dataset_id": found})
    result = follow_job(jobs, job["id"]).result or {}
    print_json(result) if as_json else _print(EvaluationResult.model_validate(result))


_SPLITS = {
    "train": "training images",
    "validation": "validation images",
    "test": "test images",
    "all": "images",
}


def _has_no_splits(folder: Path) -> bool:
    """Whether it is a folder of class folders alone: all of it was meant."""
    return folder.is_dir() and not any(
        split_of(path.name) for path in folder.iterdir() if path.is_dir()
    )


def _number(client: ServerClient, model: str, version: str) -> int:
    """The number of a version that is named by its number or an alias."""
    if version.isdecimal():
        return int(version)
    aliases = client.json("GET", f"/v1/models/{quote(model, safe='')}")["aliases"]
    if version not in aliases:
        known = ", ".join(aliases) or "none"
        raise CommandError(f"{model} has no alias '{version}'; it has {known}.")
    return int(aliases[version])


def _print(result: EvaluationResult) -> None:
    console = answers()
    console.print(
        f"{escape(result.model)} version {result.version}: {result.accuracy:.2%} of "
        f"{result.pictures:,} {_SPLITS[result.split]} correct "
        f"({_percent(result.accuracy_interval)}), "
        f"served by {result.runtime}"
    )
    for report in result.per_class:
        if report.support:
            console.print(
                f"  {escape(report.label)}: {report.recall or 0:.1%} of {report.support:,} "
                f"({_percent(report.recall_interval)})"
            )
    if result.comparison is not None:
        console.print(_compared(result.comparison))
    for warning in result.warnings:
        print_error(error_console(), warning.detail)
    notes().print("[dim]--json prints the whole report.[/]")


def _compared(comparison: Comparison) -> str:
    return (
        f"against version {comparison.against}, which has {comparison.against_accuracy:.2%}: "
        f"{comparison.difference:+.2%} ({_percent(comparison.difference_interval)}); only this "
        f"version right {comparison.only_version_right:,}, only the other "
        f"{comparison.only_against_right:,}; McNemar p = {comparison.p_value:.3g}: "
        f"{_VERDICTS[comparison.verdict]}"
    )


def _percent(interval: Interval) -> str:
    return f"95% interval: {interval.low:.1%} to {interval.high:.1%}"
