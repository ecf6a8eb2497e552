"""Assembly of the `opsin` command. Everything heavy is imported by the command that needs it."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.commands import faces_commands, job_commands, key_commands
from cli.commands.backup_command import backup, restore
from cli.commands.explain_command import explain
from cli.output import CommandError
from contracts.settings import RELEASE

_INTERRUPTED = 130

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="As `opsin weights list` names them."),
]


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"Opsin {RELEASE}")
        raise typer.Exit


Model = Annotated[str, typer.Argument(help="A model's name.")]
DatasetId = Annotated[str, typer.Argument(metavar="ID", help="As `opsin datasets list` shows.")]


def build() -> typer.Typer:
    """The command with all its sub-commands."""
    app = typer.Typer(
        help="One service for pictures: classify, show why, learn new classes, recognise faces. "
        "Settings come from OPSIN_… variables or .env; docs/reference/settings.md lists them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_opsin)
    for command in (up, serve, worker, classify, explain, train, presets, tensorboard):
        app.command()(command)
    for upkeep in (backup, restore, doctor):
        app.command()(upkeep)
    weights = typer.Typer(help="The networks' weight files on this machine.", no_args_is_help=True)
    weights.command("pull")(weights_pull)
    weights.command("list")(weights_list)
    weights.command("verify")(weights_verify)
    app.add_typer(weights, name="weights")
    models = typer.Typer(help="The model versions in the store.", no_args_is_help=True)
    models.command("list")(models_list)
    models.command("promote")(models_promote)
    models.command("delete")(models_delete)
    models.command("verify")(models_verify)
    models.command("download")(models_download)
    app.add_typer(models, name="models")
    app.add_typer(job_commands.build(), name="jobs")
    app.add_typer(key_commands.build(), name="keys")
    app.add_typer(faces_commands.build(), name="faces")
    datasets = typer.Typer(help="Pictures with labels, to learn from.", no_args_is_help=True)
    datasets.command("add")(datasets_add)
    datasets.command("list")(datasets_list)
    datasets.command("show")(datasets_show)
    datasets.command("files")(datasets_files)
    datasets.command("delete")(datasets_delete)
    app.add_typer(datasets, name="datasets")
    return app


def _opsin(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Holds the options that belong to no command; each answers by its callback."""


def run() -> None:
    """The entry point: a failure is one plain line and an exit code, never a stack trace."""
    try:
        build()()
    except CommandError as failure:
        from cli.output import complain, notes

        complain(notes(), failure.message)
        sys.exit(failure.exit_code)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def up(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all logs live.")] = False,
) -> None:
    """Start everything on this machine: Valkey, two workers and the API. Ctrl-C stops it all."""
    from cli.commands.up import up as start
    from cli.settings import load

    start(load(), verbose=verbose)


def serve(
    shared: Annotated[
        str, typer.Option(hidden=True, help="Descriptors: the port's socket, and who is told.")
    ] = "",
) -> None:
    """Run the API alone; needs OPSIN_REDIS_URL."""
    from cli.commands.serve import serve as start
    from cli.commands.serve import serve_many as start_many
    from cli.commands.serve import serve_shared as start_shared
    from cli.settings import load

    settings = load()
    if shared:
        start_shared(settings, shared)
    elif settings.api_processes > 1:
        start_many(settings)
    else:
        start(settings)


def worker(
    unkept: Annotated[
        bool, typer.Option("--unkept", help="One bare process: nobody restarts or replaces it.")
    ] = False,
    jobs: Annotated[
        bool, typer.Option("--jobs", help="A job worker: trainings and other long tasks.")
    ] = False,
) -> None:
    """Run one inference worker, or one job worker, alone; needs OPSIN_REDIS_URL."""
    from cli.commands.serve import keep, work, work_on_jobs
    from cli.settings import load

    (work_on_jobs if jobs else work if unkept else keep)(load())


def classify(  # noqa: PLR0917 (typer reads options from the parameters)
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Image files.")],
    model: Annotated[str | None, typer.Option(help="The network. Default: the first.")] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many classes to show.")] = 5,
    resize: Annotated[
        Literal["crop", "squash"], typer.Option(help="How a photo becomes the input.")
    ] = "crop",
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's JSON.")] = False,
    server: Annotated[str | None, typer.Option(help="Ask this server, e.g. http://gpu:8000.")] = (
        None
    ),
    local: Annotated[bool, typer.Option("--local", help="Use no server.")] = False,
    key: Annotated[str | None, typer.Option(help="The server's key, if not OPSIN_API_KEY.")] = None,
) -> None:
    """Say what is on photos.

    The server answers if one runs, else the network in this process.
    """
    from cli.commands.classify import Question
    from cli.commands.classify import classify as answer
    from cli.settings import load

    settings = load(key=key)
    question = Question(model, top, resize)
    answer(settings, photos, question, server=server, local=local, as_json=as_json)


def train(  # noqa: PLR0917 (typer reads options from the parameters)
    folder: Annotated[Path, typer.Argument(help="One folder of pictures a class.")],
    model: Annotated[str, typer.Option(help="The model that gets a new version.")],
    preset: Annotated[str | None, typer.Option(help="See `opsin presets`.")] = None,
    network: Annotated[str | None, typer.Option(help="Default: efficientnet_lite0.")] = None,
    strategy: Annotated[
        Literal["feature_extraction", "fine_tuning", "from_scratch"] | None,
        typer.Option(help="Default: feature_extraction where there are weights."),
    ] = None,
    unfreeze_from: Annotated[
        str | None, typer.Option(help="fine_tuning: the lowest layer or block that learns.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of every phase, at most.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    image_size: Annotated[int | None, typer.Option(min=16, help="Side in pixels.")] = None,
    augment: Annotated[
        bool, typer.Option("--augment", help="Vary training pictures: turn, shift, zoom, mirror.")
    ] = False,
    promote: Annotated[
        Literal["if_better", "always", "never"] | None,
        typer.Option(help="Whether it becomes champion. Default: if_better."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed and machine: same.")] = None,
    options: Annotated[
        str | None, typer.Option(help="Any other field of POST /v1/trainings, as JSON.")
    ] = None,
) -> None:
    """Learn the classes of a folder, and publish the model.

    Ctrl-C stops it; the same command again goes on. A running `opsin up` serves the new champion.
    """
    from cli.commands.train import train as start
    from cli.commands.train import wishes
    from cli.settings import load

    asked = wishes(
        options,
        augment=augment,
        epochs=epochs,
        model=model,
        preset=preset,
        network=network,
        strategy=strategy,
        unfreeze_from=unfreeze_from,
        batch_size=batch_size,
        image_size=image_size,
        promote=promote,
        seed=seed,
    )
    start(load(), folder, asked)


def presets() -> None:
    """Show the trainings of the classic tutorials, by name."""
    from cli.commands.train import show_presets

    show_presets()


def tensorboard(
    job: Annotated[str | None, typer.Argument(help="Default: all trainings.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 6006,
) -> None:
    """Open TensorBoard on what trainings logged."""
    from cli.commands.tensorboard import tensorboard as start
    from cli.settings import load

    start(load(), job, port)


def weights_pull(names: Names = None) -> None:
    """Fetch weights. Without a name: what OPSIN_MODELS needs, and the sample photos."""
    from cli.commands.weights import pull
    from cli.settings import load

    pull(load(), names or [])


def weights_list() -> None:
    """Show all weights: here or not, size, licence, source."""
    from cli.commands.weights import show
    from cli.settings import load

    show(load())


def weights_verify(names: Names = None) -> None:
    """Read weight files from end to end and compare their digests."""
    from cli.commands.weights import verify
    from cli.settings import load

    verify(load(), names or [])


def models_list() -> None:
    """Show every version, its aliases, network, classes and size."""
    from cli.commands.models import show
    from cli.settings import load

    show(load())


def models_promote(
    model: Model,
    version: Annotated[int, typer.Argument(min=1, help="Its number.")],
    alias: Annotated[str, typer.Option(help="The alias that shall stand on it.")] = "champion",
) -> None:
    """Let an alias stand on a version; to roll back, name an older one."""
    from cli.commands.models import promote
    from cli.settings import load

    promote(load(), model, version, alias)


def models_delete(
    model: Model, version: Annotated[int, typer.Argument(min=1, help="Its number.")]
) -> None:
    """Remove a version for good; not while an alias stands on it."""
    from cli.commands.models import delete
    from cli.settings import load

    delete(load(), model, version)


def models_verify(
    model: Annotated[str | None, typer.Argument(help="Default: all models.")] = None,
) -> None:
    """Compare all files with their digests; a damaged version goes to quarantine."""
    from cli.commands.models import verify
    from cli.settings import load

    verify(load(), model)


def models_download(
    model: Model,
    version: Annotated[str, typer.Argument(help="Its number, or an alias.")] = "champion",
    kind: Annotated[
        Literal["saved_model", "keras", "tflite", "onnx", "labels"],
        typer.Option("--format", help="Converted first where it has to be."),
    ] = "saved_model",
    to: Annotated[Path | None, typer.Option(help="A file that is not there yet.")] = None,
) -> None:
    """Write a version to a file."""
    from cli.commands.models import fetch
    from cli.settings import load

    fetch(load(), model, version, kind, to)


def datasets_add(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER_OR_ARCHIVE", help="A folder a class, or a zip of it.")
    ],
    name: Annotated[str | None, typer.Option(help="Default: as the folder.")] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of each class for validation.")
    ] = 0.15,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Part of each class to test.")] = 0.15,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another split.")] = 0,
) -> None:
    """Take pictures in, and report what became of each file."""
    from cli.commands.datasets import add
    from cli.settings import load
    from models.datasets.splitting import Fractions

    add(load(), source, name, Fractions(validation, test, seed))


def datasets_list() -> None:
    """Show all datasets."""
    from cli.commands.datasets import show_all
    from cli.settings import load

    show_all(load())


def datasets_show(dataset: DatasetId) -> None:
    """Show a dataset's classes, splits, warnings, and what was left out."""
    from cli.commands.datasets import show
    from cli.settings import load

    show(load(), dataset)


def datasets_files(
    dataset: DatasetId,
    label: Annotated[str | None, typer.Option(help="Only this class.")] = None,
    status: Annotated[
        Literal["admitted", "rejected"] | None, typer.Option(help="Only kept or left out ones.")
    ] = None,
) -> None:
    """Show every file that was sent, and what became of it."""
    from cli.commands.datasets import files
    from cli.settings import load

    files(load(), dataset, label, status)


def datasets_delete(dataset: DatasetId) -> None:
    """Remove a dataset and its pictures for good."""
    from cli.commands.datasets import delete
    from cli.settings import load

    delete(load(), dataset)


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also load TensorFlow, and read the store to the end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all that was found.")] = False,
) -> None:
    """Check this machine and the installation, and say what helps.

    The exit status is 1 if something will not work as it is.
    """
    from cli.commands.diagnostics import examine
    from cli.settings import load

    examine(load(), deep=deep, as_json=as_json)
