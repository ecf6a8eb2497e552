"""`opsin faces`: enroll people, log them in, find them and erase them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.text import Text

from cli.clients.faces import FacesApi
from cli.clients.http import FilePart, JsonObject, NoAnswerError, file_part, for_each_image
from cli.clients.jobs import JobsApi
from cli.commands.faces import face_keys, face_threshold
from cli.commands.jobs import follow_job
from cli.options import AsJson, Key, Server, Yes
from cli.output import (
    CommandError,
    answers,
    confirm,
    counted,
    errors,
    notes,
    print_error,
    print_json,
    written_file,
)
from cli.settings import load
from cli.streams import shown
from cli.tables import Column, local_time, print_list

SubjectId = Annotated[str, typer.Argument(metavar="SUBJECT", help="Its id, sub_….")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files.")]
ChallengeId = Annotated[str | None, typer.Option(help="The id of the liveness challenge.")]
Nonce = Annotated[str | None, typer.Option(help="The challenge's nonce.")]
Device = Annotated[
    str | None, typer.Option(help="The device's name, as it was given for the challenge.")
]

_VIDEOS = frozenset({".mp4", ".mov", ".webm", ".avi", ".m4v", ".mkv"})
_COLORS = {"match": "green", "no_match": "red", "uncertain": "yellow"}

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
    challenge: ChallengeId = None,
    nonce: Nonce = None,
    device: Device = None,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Enroll a person from a few seconds of video, or from images."""
    if (name is None) == (subject is None):
        raise CommandError("Give --name for a new subject, or --subject.", exit_code=2)
    fields = _form_fields(challenge, nonce, device)
    parts = evidence(files)  # read first: no subject is created for files that cannot be sent
    settings = load(key=key)
    api, jobs = FacesApi(settings, server), JobsApi(settings, server)
    with _subject_for(api, subject, name, external_id, keep_frames=keep_frames) as enrolled:
        job = api.send(f"/subjects/{quote(enrolled, safe='')}/enrollments", parts, fields)
        done = follow_job(jobs, job["id"])
    if as_json:
        print_json(done.model_dump(mode="json"))
        return
    if subject is None:
        notes().print(f"[green]✓[/] {escape(shown(name))} is {enrolled}")
    what = "frame" if _field(files[0]) == "video" else "image"
    _print_enrollment(done.result or {}, what)


@contextmanager
def _subject_for(
    api: FacesApi,
    subject: str | None,
    name: str | None,
    external_id: str | None,
    *,
    keep_frames: bool,
) -> Iterator[str]:
    """The subject to enroll; one that is created for a failing enrollment is erased again."""
    if subject is not None:
        yield subject
        return
    body: JsonObject = {"name": name, "keep_frames": keep_frames}
    made = str(
        api.post("/subjects", body | ({"external_id": external_id} if external_id else {}))["id"]
    )
    try:
        yield made
    except NoAnswerError:
        raise  # the enrollment may go on
    except CommandError as error:
        _remove_empty(api, made)
        raise CommandError(f"{error.message} {shown(name)} is not enrolled.") from None


def _remove_empty(api: FacesApi, subject: str) -> None:
    """Erase a new subject, unless it has templates: an enrollment may have ended unseen."""
    path = f"/subjects/{quote(subject, safe='')}"
    with suppress(CommandError):
        if api.get(path)["templates"]["current"] == 0:
            api.delete(path)


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
def challenge(  # noqa: PLR0917 (typer reads options from the parameters)
    subject: SubjectId,
    purpose: Annotated[
        Literal["login", "enroll"], typer.Option(help="What its answer may be used for.")
    ] = "login",
    device: Device = None,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Get a liveness challenge: what the person does in front of the camera, in one clip."""
    body = {"purpose": purpose, "subject_id": subject}
    answer = FacesApi(load(key=key), server).post(
        "/challenges", body | ({"device_id": device} if device else {})
    )
    if as_json:
        print_json(answer)
        return
    fields = [("actions", ", ".join(answer["actions"]))]
    fields += [(name, answer[name]) for name in ("id", "nonce", "expires_at")]
    print_list([Column("field", "id"), Column("value", "id")], fields)
    options = f"--challenge {answer['id']} --nonce {answer['nonce']}"
    options += f" --device {device}" if device else ""
    notes().print(
        f"Film them in this order, in at most {answer['max_seconds']:g} s; then: opsin faces "
        f"{purpose} {'' if purpose == 'enroll' else subject + ' '}CLIP "
        f"{f'--subject {subject} ' if purpose == 'enroll' else ''}{options}",
        markup=False,
    )


@app.command()
def login(  # noqa: PLR0917 (typer reads options from the parameters)
    subject: SubjectId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image or a video.")],
    challenge: ChallengeId = None,
    nonce: Nonce = None,
    device: Device = None,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Log a person in by face; prints the token, and fails if there is no match."""
    fields = _form_fields(challenge, nonce, device) | {"subject_id": subject}
    part = file_part(_field(file), file)
    answer = FacesApi(load(key=key), server).send("/login", [part], fields)
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
    key: Key = None,
) -> None:
    """Compare two images, or one with a subject."""
    if len(images) + (subject is not None) != 2:
        raise CommandError("Give two images, or one and --subject.", exit_code=2)
    fields = {"subject_id": subject} if subject else {}
    parts = [file_part("image", file) for file in images]
    answer = FacesApi(load(key=key), server).send("/verify", parts, fields)
    if as_json:
        print_json(answer)
        return
    color, verdict = ("green", "match") if answer["match"] else ("red", "no match")
    answers().print(
        f"[{color}]{verdict}[/]  similarity {answer['similarity']:.3f}, "
        f"threshold {answer['threshold']:.3f}"
    )


@app.command()
def identify(
    images: Images, as_json: AsJson = False, server: Server = None, key: Key = None
) -> None:
    """Show who is in images."""
    results, failed = _send_each("/identify", images, server, key)
    if as_json:
        print_json({shown(file.name): answer for file, answer in results.items()})
        _require_all(failed, images)
        return
    columns = [
        *(Column("image"), Column("face"), Column("subject", "id"), Column("name")),
        Column("similarity", "number"),
    ]
    print_list(columns, [row for file, answer in results.items() for row in _people(file, answer)])
    _require_all(failed, images)


def _people(file: Path, answer: JsonObject) -> Iterator[tuple[str | Text, ...]]:
    """A row for each candidate of each face."""
    for face in answer["faces"]:
        for candidate in face["candidates"] or [{}]:
            similarity = candidate.get("similarity")
            yield (
                *(str(file.name), _box(face["box"])),
                candidate.get("subject_id", Text("unknown", "dim")),
                candidate.get("name") or "",
                f"{similarity:.3f}" if similarity is not None else "",
            )
    if not answer["faces"]:
        yield (file.name, Text("none", "dim"), "", "", "")


@app.command()
def detect(images: Images, as_json: AsJson = False, server: Server = None, key: Key = None) -> None:
    """Show where faces are, and whether they are good enough to be recognized."""
    results, failed = _send_each("/detect", images, server, key)
    if as_json:
        print_json({shown(file.name): answer for file, answer in results.items()})
        _require_all(failed, images)
        return
    columns = [
        *(Column("image"), Column("face"), Column("score", "number"), Column("yaw", "number")),
        *(Column("pitch", "number"), Column("sharpness", "number"), Column("good enough")),
    ]
    print_list(
        columns, [row for file, answer in results.items() for row in _qualities(file, answer)]
    )
    _require_all(failed, images)


def _qualities(file: Path, answer: JsonObject) -> Iterator[tuple[str | Text, ...]]:
    """A row for each face."""
    for face in answer["faces"]:
        quality = face["quality"]
        good = Text("yes", "green") if quality["acceptable"] else ", ".join(quality["reasons"])
        yield (
            *(file.name, _box(face["box"]), f"{face['score']:.2f}"),
            *(f"{round(quality['yaw']):+d}°", f"{round(quality['pitch']):+d}°"),
            *(f"{quality['sharpness']:.0f}", good),
        )
    if not answer["faces"]:
        yield (file.name, Text("none", "dim"), *[""] * 5)


@app.command()
def subjects(as_json: AsJson = False, server: Server = None, key: Key = None) -> None:
    """Show all enrolled people, newest first."""
    items = FacesApi(load(key=key), server).items("/subjects")
    if as_json:
        print_json({"items": items})
        return
    if not items:
        notes().print("No one is enrolled.")
        return
    columns = [
        *(Column("id", "id"), Column("name"), Column("external id")),
        *(
            Column("templates", "number"),
            Column("frames kept", "number"),
            Column("created", "time"),
        ),
    ]
    print_list(columns, [_subject_row(subject) for subject in items])


def _subject_row(subject: JsonObject) -> tuple[str, ...]:
    counts = subject["templates"]
    stale = f" ({counts['stale']} stale)" if counts["stale"] else ""
    return (
        *(subject["id"], subject["name"], subject["external_id"] or ""),
        *(f"{counts['current']}{stale}", str(subject["files"])),
        local_time(subject["created_at"]),
    )


@app.command()
def erase(
    subject: SubjectId,
    yes: Yes = False,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Erase a person: templates, frames, and the models that were trained on them."""
    api = FacesApi(load(key=key), server)
    confirm(f"Erase {subject} for good?", yes=yes)
    answer = api.delete(f"/subjects/{quote(subject, safe='')}")
    if as_json:
        print_json(answer)
        return
    erased = answer["erased"]
    notes().print(
        f"[green]✓[/] {escape(subject)} is erased: {counted(erased['templates'], 'template')}, "
        f"{counted(erased['files'], 'frame')}"
    )
    for model in erased.get("models") or ():
        notes().print(f"  [dim]and {escape(model['model'])} version {model['version']}[/]")


@app.command()
def export(
    subject: SubjectId,
    out: Annotated[Path | None, typer.Option(help="A new file that only you can read.")] = None,
    server: Server = None,
    key: Key = None,
) -> None:
    """Export everything that is held on a person, as JSON, with embeddings and images."""
    answer = FacesApi(load(key=key), server).get(f"/subjects/{quote(subject, safe='')}/export")
    if damaged := answer.get("unreadable"):
        text = "These images and embeddings are damaged or missing, and not in it"
        print_error(errors(), f"{text}: {', '.join(damaged)}.")
    if out is None:
        print_json(answer)
        return
    with written_file(out, replace=False, mode=0o600) as file:
        file.write(json.dumps(answer, indent=2).encode())
    notes().print(f"[green]✓[/] {escape(shown(out))}")


app.command()(face_threshold.calibrate)
app.command()(face_threshold.threshold)
app.command()(face_keys.rotate)
app.command()(face_keys.rotate_token_key)
app.command()(face_keys.replace_lost_keys)


def _send_each(
    path: str, images: Sequence[Path], server: str | None, key: str | None
) -> tuple[dict[Path, JsonObject], int]:
    """The answer for each image, and how many have none, of which it prints why."""
    api, results = FacesApi(load(key=key), server), dict[Path, JsonObject]()

    def send_one(file: Path) -> None:
        results[file] = api.send(path, [file_part("image", file)], {})

    failed = for_each_image(images, send_one)
    return results, failed


def _require_all(failed: int, images: Sequence[Path]) -> None:
    if failed:
        raise CommandError(f"{failed} of {counted(len(images), 'image')} could not be answered.")


def _form_fields(challenge: str | None, nonce: str | None, device: str | None) -> dict[str, str]:
    if (challenge is None) != (nonce is None):
        raise CommandError("--challenge and --nonce belong together.", exit_code=2)
    fields = {"challenge_id": challenge, "nonce": nonce, "device_id": device}
    return {name: value for name, value in fields.items() if value}


def _field(file: Path) -> str:
    return "video" if file.suffix.lower() in _VIDEOS else "image"


_LEFT_OUT = {
    "redundant": "like another one",
    "expression": "eyes closed or mouth open",
    "extreme_pose": "turned too far away",
    "too_small": "the face is too small",
    "no_face": "no face found",
    "many_faces": "more than one face",
    "unreadable": "not an image",
    "different_person": "another person",
    "another_person": "another person",
}
"""Why an image or frame gave no template; others are shown by their names."""


def _print_enrollment(result: JsonObject, what: str) -> None:
    added, frames = result.get("templates_added", 0), result.get("frames", {})
    notes().print(
        f"[green]✓[/] {counted(added, 'template')} from {frames.get('used', 0)} of "
        f"{counted(frames.get('read', 0), what)}"
    )
    rejected: dict[str, int] = frames.get("rejected", {})
    for reason, count in sorted(rejected.items(), key=lambda pair: -pair[1]):
        text = _LEFT_OUT.get(reason, reason.replace("_", " "))
        notes().print(f"  [dim]{count} left out: {escape(text)}[/]")


def _box(box: dict[str, float]) -> str:
    return f"{box['width']:.0f}×{box['height']:.0f} at {box['x']:.0f},{box['y']:.0f}"  # noqa: RUF001
