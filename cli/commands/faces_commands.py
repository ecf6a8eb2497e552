"""The options of `opsin faces …`; what they do is in `cli.commands.faces`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import CommandError

if TYPE_CHECKING:
    from cli.clients.faces import FacesApi
    from cli.commands.jobs import JobsApi

SubjectId = Annotated[str, typer.Argument(metavar="SUBJECT", help="Its id, sub_….")]
Pictures = Annotated[list[Path], typer.Argument(metavar="PICTURE", help="Image files.")]
Json = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]
Server = Annotated[
    str | None, typer.Option(help="Ask this server, e.g. http://gpu:8000. Default: this machine's.")
]
Challenge = Annotated[str | None, typer.Option(help="The liveness challenge that is answered.")]
Nonce = Annotated[str | None, typer.Option(help="The challenge's nonce.")]
Device = Annotated[
    str | None, typer.Option(help="What the device is called, as the challenge was told.")
]


def build() -> typer.Typer:
    """The group of commands."""
    faces = typer.Typer(help="People, recognised by face.", no_args_is_help=True)
    faces.command("enroll")(_enroll)
    faces.command("login")(_login)
    faces.command("verify")(_verify)
    faces.command("identify")(_identify)
    faces.command("detect")(_detect)
    faces.command("subjects")(_subjects)
    faces.command("erase")(_erase)
    faces.command("calibrate")(_calibrate)
    faces.command("threshold")(_threshold)
    faces.command("rotate")(_rotate)
    faces.command("rotate-token-key")(_rotate_token_key)
    return faces


def _enroll(  # noqa: PLR0917 (typer reads options from the parameters)
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="One video of a face, or pictures.")
    ],
    name: Annotated[str | None, typer.Option(help="Make a subject of that name.")] = None,
    subject: Annotated[str | None, typer.Option(help="Or add to this one, sub_….")] = None,
    external_id: Annotated[str | None, typer.Option(help="What you call the person.")] = None,
    keep_frames: Annotated[
        bool, typer.Option("--keep-frames", help="Keep the frames used, encrypted.")
    ] = False,
    challenge: Challenge = None,
    nonce: Nonce = None,
    device: Device = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Enroll somebody from a few seconds of video, or from pictures."""
    from cli.commands import faces

    if (name is None) == (subject is None):
        raise CommandError("Give --name for a new subject, or --subject.", exit_code=2)
    fields = _fields(challenge, nonce, device)
    parts = faces.evidence(files)
    api, following = _apis(server)
    who = subject or faces.add(
        api, name or "", external_id=external_id, keep_frames=keep_frames, as_json=as_json
    )
    faces.enroll(api, following, who, parts, fields, as_json=as_json)


def _login(  # noqa: PLR0917 (typer reads options from the parameters)
    subject: SubjectId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A picture, or a video.")],
    challenge: Challenge = None,
    nonce: Nonce = None,
    device: Device = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Log somebody in by face; the token goes to stdout, and the exit code says whether."""
    from cli.commands import faces

    fields = _fields(challenge, nonce, device)
    faces.login(_apis(server)[0], subject, file, fields, as_json=as_json)


def _verify(
    pictures: Pictures,
    subject: Annotated[str | None, typer.Option(help="Compare with this subject, sub_….")] = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Compare two pictures, or one with a subject."""
    from cli.commands import faces

    faces.verify(_apis(server)[0], pictures, subject, as_json=as_json)


def _identify(pictures: Pictures, as_json: Json = False, server: Server = None) -> None:
    """Say who is on pictures."""
    from cli.commands import faces

    faces.identify(_apis(server)[0], pictures, as_json=as_json)


def _detect(pictures: Pictures, as_json: Json = False, server: Server = None) -> None:
    """Say where faces are, and whether they are good enough."""
    from cli.commands import faces

    faces.detect(_apis(server)[0], pictures, as_json=as_json)


def _subjects(as_json: Json = False, server: Server = None) -> None:
    """Show everybody who is enrolled."""
    from cli.commands import faces

    faces.subjects(_apis(server)[0], as_json=as_json)


def _erase(
    subject: SubjectId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Erase somebody: templates, frames, and the models that were trained on them."""
    from cli.commands import faces

    if not yes:
        typer.confirm(f"Erase {subject} for good?", abort=True, err=True)
    faces.erase(_apis(server)[0], subject, as_json=as_json)


def _calibrate(  # noqa: PLR0917 (typer reads options from the parameters)
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="One class a person, ds_….")],
    target_fmr: Annotated[
        float, typer.Option(min=1e-7, max=0.5, help="Share of strangers that may match.")
    ] = 0.001,
    all_faces: Annotated[
        bool, typer.Option("--all-faces", help="Also those that a login would refuse.")
    ] = False,
    to: Annotated[Path | None, typer.Option(help="Where the curve det.png goes.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Put the threshold in force.")] = False,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Measure the threshold for a false-match rate on pictures of known people."""
    from cli.commands import faces

    asked = {
        "dataset_id": dataset,
        "target_fmr": target_fmr,
        "only_acceptable": not all_faces,
    }
    api, following = _apis(server)
    faces.calibrate(api, following, asked, to=to, apply=apply, as_json=as_json)


def _threshold(
    similarity: Annotated[
        float | None, typer.Argument(min=-1, max=1, help="Left out: show it.")
    ] = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Show or set the similarity from which on two faces are one person's."""
    from cli.commands import faces

    faces.threshold(_apis(server)[0], similarity, as_json=as_json)


def _rotate() -> None:
    """Seal everybody by a fresh key; with OPSIN_FACES_KEYS, by the first of those."""
    from cli.commands.face_keys import rotate
    from cli.settings import load

    rotate(load())


def _rotate_token_key() -> None:
    """Sign the tokens of logins by a fresh key; those that were given out stay good."""
    from cli.commands.face_keys import rotate_token_key
    from cli.settings import load

    rotate_token_key(load())


def _apis(server: str | None) -> "tuple[FacesApi, JobsApi]":
    from cli.clients.faces import FacesApi
    from cli.commands.jobs import JobsApi
    from cli.settings import load

    settings = load()
    return FacesApi(settings, server), JobsApi(settings, server)


def _fields(challenge: str | None, nonce: str | None, device: str | None) -> dict[str, str]:
    if (challenge is None) != (nonce is None):
        raise CommandError("--challenge and --nonce belong together.", exit_code=2)
    given = {"challenge_id": challenge, "nonce": nonce, "device_id": device}
    return {name: value for name, value in given.items() if value}
