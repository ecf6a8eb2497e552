"""`opsin faces`: enroll people, log them in, find them and erase them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from cli.clients.faces import FacesApi, FilePart, JsonObject, file_part
from cli.clients.jobs import JobsApi
from cli.commands import face_keys, face_threshold
from cli.commands.jobs import follow_job
from cli.options import AsJson, Server
from cli.output import CommandError, answers, notes, plain_table
from cli.settings import load

SubjectId = Annotated[str, typer.Argument(metavar="SUBJECT", help="Its id, sub_….")]
Images = Annotated[list[Path], typer.Argument(metavar="PICTURE", help="Image files.")]
Challenge = Annotated[str | None, typer.Option(help="The id of the liveness challenge.")]
Nonce = Annotated[str | None, typer.Option(help="The challenge's nonce.")]
Device = Annotated[
    str | None, typer.Option(help="The device's name, as it was given for the challenge.")
]

_VIDEOS = frozenset({".mp4", ".mov", ".webm", ".avi", ".m4v", ".mkv"})
_COLORS = {"match": "green", "no_match": "red", "uncertain": "yellow"}
_NUMBERS = ("similarity", "score", "sharpness")

app = typer.Typer()


@app.command()
def enroll(  # noqa: PLR0917 (typer reads options from the parameters)
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="One video of a face, or images.")
    ],
    name: Annotated[str | None, typer.Option(help="Create a subject of that name.")] = None,
    subject: Annotated[str | None, typer.Option(help="Or add to this one, sub_….")] = None,
    external_id: Annotated[str | None, typer.Option(help="Your own id of the person.")] = None,
    keep_frames: Annotated[
        bool, typer.Option("--keep-frames", help="Keep the frames used, encrypted.")
    ] = False,
    challenge: Challenge = None,
    nonce: Nonce = None,
    device: Device = None,
    as_json: AsJson = False,
    server: Server = None,
) -> None:
    """Enroll a person from a few seconds of video, or from images."""
    if (name is None) == (subject is None):
        raise CommandError("Give --name for a new subject, or --subject.", exit_code=2)
    fields = _form_fields(challenge, nonce, device)
    parts = evidence(files)  # read first: no subject is created for files that cannot be sent
    settings = load()
    api, jobs = FacesApi(settings, server), JobsApi(settings, server)
    if subject is None:
        body: JsonObject = {"name": name, "keep_frames": keep_frames}
        made = api.post("/subjects", body | ({"external_id": external_id} if external_id else {}))
        subject = str(made["id"])
        if not as_json:
            notes().print(f"[green]✓[/] {escape(name or '')} is {subject}")
    job = api.send(f"/subjects/{quote(subject, safe='')}/enrollments", parts, fields)
    follow_job(jobs, job["id"])
    done = jobs.get(job["id"])
    if as_json:
        print_json(done.model_dump(mode="json"))
    else:
        _print_enrollment(done.result or {})


def evidence(files: Sequence[Path]) -> list[FilePart]:
    """The files of an enrollment, read.

    Raises:
        CommandError: One cannot be read, or they are not one video or images only.
    """
    parts = [file_part(_field(file), file) for file in files]
    if sum(name == "video" for name, _ in parts) and len(parts) > 1:
        raise CommandError("Send one video, or images.", exit_code=2)
    return parts


@app.command()
def login(  # noqa: PLR0917 (typer reads options from the parameters)
    subject: SubjectId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image or a video.")],
    challenge: Challenge = None,
    nonce: Nonce = None,
    device: Device = None,
    as_json: AsJson = False,
    server: Server = None,
) -> None:
    """Log a person in by face; prints the token, and fails if there is no match."""
    fields = _form_fields(challenge, nonce, device) | {"subject_id": subject}
    part = file_part(_field(file), file)
    answer = FacesApi(load(), server).send("/login", [part], fields)
    decision, reason = answer["decision"], answer.get("reason")
    if as_json:
        print_json(answer)
    else:
        because = f" ({escape(reason)})" if reason else ""
        answers().print(f"[{_COLORS.get(decision, 'yellow')}]{decision}[/]{because}")
        if answer.get("token"):
            answers().print(answer["token"], markup=False)
            notes().print(f"[dim]valid until {answer['expires_at']}[/]")
    if decision != "match":
        raise CommandError("Not logged in.")


@app.command()
def verify(
    images: Images,
    subject: Annotated[str | None, typer.Option(help="Compare with this subject, sub_….")] = None,
    as_json: AsJson = False,
    server: Server = None,
) -> None:
    """Compare two images, or one with a subject."""
    if len(images) + (subject is not None) != 2:
        raise CommandError("Give two images, or one and --subject.", exit_code=2)
    fields = {"subject_id": subject} if subject else {}
    parts = [file_part("image", file) for file in images]
    answer = FacesApi(load(), server).send("/verify", parts, fields)
    if as_json:
        print_json(answer)
        return
    color, verdict = ("green", "match") if answer["match"] else ("red", "no match")
    answers().print(
        f"[{color}]{verdict}[/]  similarity {answer['similarity']:.3f}, "
        f"threshold {answer['threshold']:.3f}"
    )


@app.command()
def identify(images: Images, as_json: AsJson = False, server: Server = None) -> None:
    """Show who is on images."""
    results = _send_each("/identify", images, server)
    if as_json:
        print_json({file.name: answer for file, answer in results.items()})
        return
    table = plain_table("image", "face", "subject", "name", "similarity", right=_NUMBERS, fold=True)
    for file, answer in results.items():
        for face in answer["faces"]:
            for candidate in face["candidates"] or [{}]:
                similarity = candidate.get("similarity")
                table.add_row(
                    escape(file.name),
                    _box(face["box"]),
                    candidate.get("subject_id", "[dim]unknown[/]"),
                    escape(candidate.get("name") or ""),
                    f"{similarity:.3f}" if similarity is not None else "",
                )
        if not answer["faces"]:
            table.add_row(escape(file.name), "[dim]none[/]", "", "", "")
    answers().print(table)


@app.command()
def detect(images: Images, as_json: AsJson = False, server: Server = None) -> None:
    """Show where faces are, and whether they are good enough to be recognised."""
    results = _send_each("/detect", images, server)
    if as_json:
        print_json({file.name: answer for file, answer in results.items()})
        return
    headings = ("image", "face", "score", "yaw", "pitch", "sharpness", "good enough")
    table = plain_table(*headings, right=_NUMBERS, fold=True)
    for file, answer in results.items():
        for face in answer["faces"]:
            quality = face["quality"]
            good = "[green]yes[/]" if quality["acceptable"] else ", ".join(quality["reasons"])
            table.add_row(
                *(escape(file.name), _box(face["box"]), f"{face['score']:.2f}"),
                *(f"{quality['yaw']:+.0f}°", f"{quality['pitch']:+.0f}°"),
                *(f"{quality['sharpness']:.0f}", good),
            )
        if not answer["faces"]:
            table.add_row(escape(file.name), "[dim]none[/]", *[""] * 5)
    answers().print(table)


@app.command()
def subjects(as_json: AsJson = False, server: Server = None) -> None:
    """Show all enrolled people, newest first."""
    items = FacesApi(load(), server).items("/subjects")
    if as_json:
        print_json({"items": items})
        return
    table = plain_table(
        "id", "name", "external id", "templates", "frames kept", "made", fold=True
    )  # folded, so that an id can be copied
    for subject in items:
        counts = subject["templates"]
        stale = f" ({counts['stale']} stale)" if counts["stale"] else ""
        table.add_row(
            *(subject["id"], escape(subject["name"]), escape(subject["external_id"] or "")),
            *(f"{counts['current']}{stale}", str(subject["files"]), subject["created_at"][:16]),
        )
    if not items:
        notes().print("No one is enrolled.")
        return
    answers().print(table)


@app.command()
def erase(
    subject: SubjectId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    server: Server = None,
) -> None:
    """Erase a person: templates, frames, and the models that were trained on them."""
    if not yes:
        typer.confirm(f"Erase {subject} for good?", abort=True, err=True)
    answer = FacesApi(load(), server).delete(f"/subjects/{quote(subject, safe='')}")
    if as_json:
        print_json(answer)
        return
    erased = answer["erased"]
    notes().print(
        f"[green]✓[/] {escape(subject)} is erased: {erased['templates']} templates, "
        f"{erased['files']} frames"
    )
    for model in erased.get("models") or ():
        notes().print(f"  [dim]and {escape(model['model'])} version {model['version']}[/]")


@app.command()
def export(
    subject: SubjectId,
    to: Annotated[Path | None, typer.Option(help="A file that only you can read.")] = None,
    server: Server = None,
) -> None:
    """Export everything that is held on a person, as JSON, with embeddings and images."""
    answer = FacesApi(load(), server).get(f"/subjects/{quote(subject, safe='')}/export")
    if to is None:
        print_json(answer)
        return
    try:
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(answer, file, indent=2)
    except OSError as error:
        raise CommandError(f"{to} cannot be written: {error.strerror}.") from None
    notes().print(f"[green]✓[/] {escape(str(to))}")


app.command()(face_threshold.calibrate)
app.command()(face_threshold.threshold)
app.command()(face_keys.rotate)
app.command()(face_keys.rotate_token_key)


def print_json(content: Any) -> None:
    """Print what the API answered."""
    answers().print(json.dumps(content, indent=2), markup=False)


def _send_each(path: str, images: Sequence[Path], server: str | None) -> dict[Path, JsonObject]:
    api = FacesApi(load(), server)
    return {file: api.send(path, [file_part("image", file)], {}) for file in images}


def _form_fields(challenge: str | None, nonce: str | None, device: str | None) -> dict[str, str]:
    if (challenge is None) != (nonce is None):
        raise CommandError("--challenge and --nonce belong together.", exit_code=2)
    fields = {"challenge_id": challenge, "nonce": nonce, "device_id": device}
    return {name: value for name, value in fields.items() if value}


def _field(file: Path) -> str:
    return "video" if file.suffix.lower() in _VIDEOS else "image"


def _print_enrollment(result: JsonObject) -> None:
    added, frames = result.get("templates_added", 0), result.get("frames", {})
    notes().print(
        f"[green]✓[/] {added} templates from {frames.get('used', 0)} of "
        f"{frames.get('read', 0)} frames"
    )
    rejected: dict[str, int] = frames.get("rejected", {})
    for reason, count in sorted(rejected.items(), key=lambda pair: -pair[1]):
        notes().print(f"  [dim]{count} {escape(reason)}[/]")


def _box(box: dict[str, float]) -> str:
    return f"{box['width']:.0f}×{box['height']:.0f} at {box['x']:.0f},{box['y']:.0f}"  # noqa: RUF001
