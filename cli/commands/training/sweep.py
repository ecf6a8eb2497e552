"""`opsin sweep`: one training with several settings, as a job of a running server."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cli.clients.http import ServerClient
from cli.clients.jobs import JobsApi
from cli.commands.jobs import follow_job
from cli.commands.sent_folder import dataset_on_server
from cli.commands.training.train import training_options
from cli.options import AsJson, Key, Server
from cli.output import CommandError, answers, notes, print_json
from cli.settings import load
from contracts.training.sweeps import SweepMetric, SweepResult

_UPLOAD_SECONDS = 3600.0


def sweep(  # noqa: PLR0917 (typer reads options from the parameters)
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Labeled images: ds_…, or class folders.")
    ],
    model: Annotated[str, typer.Option(help="The model that gets a new version.")],
    tries: Annotated[
        list[str],
        typer.Option(
            "--try",
            metavar="FIELD=VALUES",
            help="A field of POST /v1/trainings and its values: learning_rate.head=0.01,0.001, or "
            "a JSON list. May be repeated; all combinations are trained.",
        ),
    ],
    preset: Annotated[str | None, typer.Option(help="See `opsin presets`.")] = None,
    network: Annotated[str | None, typer.Option(help="Default: efficientnet_lite0.")] = None,
    metric: Annotated[
        SweepMetric | None, typer.Option(help="Of the validation images. Default: accuracy.")
    ] = None,
    max_trainings: Annotated[
        int | None, typer.Option(min=1, help="Draw as many combinations at random. Default: 20.")
    ] = None,
    options: Annotated[
        str | None, typer.Option(help="Any other field of POST /v1/trainings, as JSON.")
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Train with several settings, one after another, and keep the best version.

    It is a job: Ctrl-C leaves it running.
    """
    settings = load(key=key)
    client = ServerClient(settings, server, seconds=_UPLOAD_SECONDS)
    jobs = JobsApi(settings, server)
    body: dict[str, Any] = {"grid": dict(_values(each) for each in tries)}
    body |= {"metric": metric} if metric else {}
    body |= {"max_trainings": max_trainings} if max_trainings else {}
    fields = training_options(
        options, augment=False, epochs=None, model=model, preset=preset, network=network
    )
    with dataset_on_server(client, jobs, Path(dataset), trainable=True) as found:
        body["training"] = {**fields, "dataset_id": found}
        job = client.json("POST", "/v1/sweeps", json=body)
    notes().print(f"[green]✓[/] {job['id']} is queued; Ctrl-C leaves it running")
    result = follow_job(jobs, job["id"]).result or {}
    print_json(result) if as_json else _print(SweepResult.model_validate(result))


def _values(text: str) -> tuple[str, list[Any]]:
    """A field and its values.

    Raises:
        CommandError: The text has another form.
    """
    field, sign, values = text.partition("=")
    if not sign or not field.strip() or not values.strip():
        raise CommandError(f"--try {text}: write FIELD=VALUE,VALUE, such as seed=1,2,3")
    if values.strip().startswith("["):
        try:
            return field.strip(), list(json.loads(values))
        except ValueError:
            raise CommandError(f"--try {text}: the values are not a JSON list") from None
    return field.strip(), [_value(each.strip()) for each in values.split(",")]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print(result: SweepResult) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    fields = list(result.trainings[0].values)
    for title in ("", *fields, f"validation {result.metric}", "test accuracy", "seconds"):
        table.add_column(escape(title))
    for row in result.trainings:
        test = row.metrics.get("test")
        score = f"{row.score:.4f}" if row.score is not None else row.error and row.error.code
        table.add_row(
            f"{row.number}{'*' if row.number == result.best else ''}",
            *(escape(json.dumps(row.values[field], ensure_ascii=False)) for field in fields),
            score or "-",
            "-" if test is None else f"{test.accuracy:.1%}",
            f"{row.seconds:.0f}",
        )
    answers().print(table)
    champion = "is champion" if result.promoted else "is not promoted"
    notes().print(
        f"[green]✓[/] {escape(result.model)} version {result.version} (*) {champion}. "
        f"{escape(result.promotion.reason)}"
    )
