"""`opsin faces`: enroll people, log them in, find them, erase them, and choose the threshold."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.markup import escape
from rich.table import Table

from cli.clients.faces import Answer, FacesApi, Part, part
from cli.commands import jobs
from cli.output import CommandError, answers, notes, warn

_VIDEOS = frozenset({".mp4", ".mov", ".webm", ".avi", ".m4v", ".mkv"})
_COLORS = {"match": "green", "no_match": "red", "uncertain": "yellow"}
_DET = "det.png"


def add(
    api: FacesApi, name: str, *, external_id: str | None, keep_frames: bool, as_json: bool
) -> str:
    """Makes a subject; returns its id."""
    body: Answer = {"name": name, "keep_frames": keep_frames}
    made = api.post("/subjects", body | ({"external_id": external_id} if external_id else {}))
    if not as_json:
        notes().print(f"[green]✓[/] {escape(name)} is {made['id']}")
    return str(made["id"])


def evidence(files: Sequence[Path]) -> list[Part]:
    """Pictures or one video, read: before anything is made for them.

    Raises:
        CommandError: One cannot be read, or they do not go together.
    """
    parts = [part(_field(file), file) for file in files]
    if sum(name == "video" for name, _ in parts) and len(parts) > 1:
        raise CommandError("Send one video, or pictures.", exit_code=2)
    return parts


def enroll(
    api: FacesApi,
    following: jobs.JobsApi,
    subject: str,
    parts: Sequence[Part],
    fields: dict[str, str],
    *,
    as_json: bool,
) -> None:
    """Sends pictures or one video of a subject, and shows the job until it has ended.

    Raises:
        CommandError: It was refused, or no template came of it.
    """
    job = api.send(f"/subjects/{quote(subject, safe='')}/enrollments", parts, fields)
    jobs.follow(following, job["id"])
    done = following.get(job["id"])
    if as_json:
        _print_json(done.model_dump(mode="json"))
        return
    _print_enrollment(done.result or {})


def login(
    api: FacesApi, subject: str, file: Path, fields: dict[str, str], *, as_json: bool
) -> None:
    """Tries to log a subject in; prints the decision, and the token if it is one.

    Raises:
        CommandError: It is not a match, so that a script can tell by the exit code.
    """
    answer = api.send("/login", [part(_field(file), file)], fields | {"subject_id": subject})
    decision, reason = answer["decision"], answer.get("reason")
    if as_json:
        _print_json(answer)
    else:
        because = f" ({escape(reason)})" if reason else ""
        answers().print(f"[{_COLORS.get(decision, 'yellow')}]{decision}[/]{because}")
        if answer.get("token"):
            answers().print(answer["token"], markup=False)
            notes().print(f"[dim]good until {answer['expires_at']}[/]")
    if decision != "match":
        raise CommandError("Not logged in.")


def verify(api: FacesApi, files: Sequence[Path], subject: str | None, *, as_json: bool) -> None:
    """Compares two pictures, or one with a subject."""
    if len(files) + (subject is not None) != 2:
        raise CommandError("Give two pictures, or one and --subject.", exit_code=2)
    fields = {"subject_id": subject} if subject else {}
    answer = api.send("/verify", [part("image", file) for file in files], fields)
    if as_json:
        _print_json(answer)
        return
    color, told = ("green", "match") if answer["match"] else ("red", "no match")
    answers().print(
        f"[{color}]{told}[/]  similarity {answer['similarity']:.3f}, "
        f"threshold {answer['threshold']:.3f}"
    )


def identify(api: FacesApi, files: Sequence[Path], *, as_json: bool) -> None:
    """Says who is on pictures; a stranger is nobody."""
    found = {file: api.send("/identify", [part("image", file)], {}) for file in files}
    if as_json:
        _print_json({file.name: answer for file, answer in found.items()})
        return
    table = _table("picture", "face", "subject", "name", "similarity")
    for file, answer in found.items():
        for face in answer["faces"]:
            for one in face["candidates"] or [{}]:
                similarity = one.get("similarity")
                table.add_row(
                    escape(file.name),
                    _place(face["box"]),
                    one.get("subject_id", "[dim]unknown[/]"),
                    escape(one.get("name") or ""),
                    f"{similarity:.3f}" if similarity is not None else "",
                )
        if not answer["faces"]:
            table.add_row(escape(file.name), "[dim]none[/]", "", "", "")
    answers().print(table)


def detect(api: FacesApi, files: Sequence[Path], *, as_json: bool) -> None:
    """Says where faces are, and whether they are fit to be recognised."""
    found = {file: api.send("/detect", [part("image", file)], {}) for file in files}
    if as_json:
        _print_json({file.name: answer for file, answer in found.items()})
        return
    table = _table("picture", "face", "score", "yaw", "pitch", "sharpness", "fit to be recognised")
    for file, answer in found.items():
        for face in answer["faces"]:
            quality = face["quality"]
            fit = "[green]yes[/]" if quality["acceptable"] else ", ".join(quality["reasons"])
            table.add_row(
                *(escape(file.name), _place(face["box"]), f"{face['score']:.2f}"),
                *(f"{quality['yaw']:+.0f}°", f"{quality['pitch']:+.0f}°"),
                *(f"{quality['sharpness']:.0f}", fit),
            )
        if not answer["faces"]:
            table.add_row(escape(file.name), "[dim]none[/]", *[""] * 5)
    answers().print(table)


def subjects(api: FacesApi, *, as_json: bool) -> None:
    """Lists everybody, newest first."""
    items = api.items("/subjects")
    if as_json:
        _print_json({"items": items})
        return
    table = _table("id", "name", "external id", "templates", "frames kept", "made")
    for one in items:
        counts = one["templates"]
        stale = f" ({counts['stale']} stale)" if counts["stale"] else ""
        table.add_row(
            *(one["id"], escape(one["name"]), escape(one["external_id"] or "")),
            *(f"{counts['current']}{stale}", str(one["files"]), one["created_at"][:16]),
        )
    if not items:
        notes().print("Nobody is enrolled.")
        return
    answers().print(table)


def erase(api: FacesApi, subject: str, *, as_json: bool) -> None:
    """Erases a subject and all that was made of it."""
    answer = api.delete(f"/subjects/{quote(subject, safe='')}")
    if as_json:
        _print_json(answer)
        return
    gone = answer["erased"]
    notes().print(
        f"[green]✓[/] {escape(subject)} is erased: {gone['templates']} templates, "
        f"{gone['files']} frames"
    )
    for model in gone.get("models") or ():
        notes().print(f"  [dim]and {escape(model['model'])} version {model['version']}[/]")


def calibrate(
    api: FacesApi,
    following: jobs.JobsApi,
    asked: Answer,
    *,
    to: Path | None,
    apply: bool,
    as_json: bool,
) -> None:
    """Measures a threshold, and puts it in force if that is asked for."""
    job = api.post("/calibrations", asked)
    jobs.follow(following, job["id"])
    result: Answer = following.get(job["id"]).result or {}
    if to is not None:
        following.fetch(job["id"], _DET, to / _DET if to.is_dir() else to)
    if as_json:
        _print_json(result)
    else:
        _print_calibration(result)
    if apply:
        api.put("/threshold", {"calibration_job_id": job["id"]})
        notes().print(f"[green]✓[/] {result['threshold']:.4f} is in force")
    elif not as_json:
        notes().print("[dim]The threshold in force is as it was; --apply changes it.[/]")


def threshold(api: FacesApi, similarity: float | None, *, as_json: bool) -> None:
    """Shows the threshold in force, or sets another."""
    if similarity is not None:
        api.put("/threshold", {"similarity": similarity})
    found = api.get("/threshold")
    if as_json:
        _print_json(found)
        return
    told = ", ".join(
        str(found[name]) for name in ("source", "measured_on") if found.get(name) is not None
    )
    answers().print(f"{found['similarity']:.4f}  [dim]{escape(told)}[/]")


def _field(file: Path) -> str:
    return "video" if file.suffix.lower() in _VIDEOS else "image"


def _print_enrollment(result: Answer) -> None:
    added, frames = result.get("templates_added", 0), result.get("frames", {})
    notes().print(
        f"[green]✓[/] {added} templates, of {frames.get('used', 0)} of "
        f"{frames.get('read', 0)} frames"
    )
    rejected: dict[str, int] = frames.get("rejected", {})
    for reason, count in sorted(rejected.items(), key=lambda pair: -pair[1]):
        notes().print(f"  [dim]{count} {escape(reason)}[/]")


def _print_calibration(result: Answer) -> None:
    table = _table("", "rate", "95 %", "errors", "pairs")
    for name, title in (("fmr", "FMR, strangers who match"), ("fnmr", "FNMR, own who do not")):
        _add_rate(table, title, result[name])
    for group in result["groups"]:
        for name in ("fmr", "fnmr"):
            _add_rate(table, f"{escape(group['group'])}: {name.upper()}", group[name])
    low, high = result["threshold_interval"]
    answers().print(
        f"[bold]threshold {result['threshold']:.4f}[/]  ({low:.4f} to {high:.4f})  "
        f"{result['faces']} faces of {result['people']} people"
    )
    answers().print(table)
    for one in result["left_out"]:
        warn(notes(), f"{one['person']}: {one['pictures']} {one['reason']}. {one['detail']}")
    for text in result["warnings"]:
        warn(notes(), text)


def _add_rate(table: Table, title: str, rate: Answer) -> None:
    told = "" if rate["rate"] is None else f"{rate['rate']:.3%}"
    low, high = rate["interval"]
    table.add_row(
        title, told, f"{low:.3%} to {high:.3%}", f"{rate['errors']:,}", f"{rate['pairs']:,}"
    )


def _place(box: dict[str, float]) -> str:
    return f"{box['width']:.0f}×{box['height']:.0f} at {box['x']:.0f},{box['y']:.0f}"  # noqa: RUF001


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading in {"rate", "errors", "pairs", "similarity", "score", "sharpness"}
        # An id is there to be copied: it is folded rather than cut.
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    return table


def _print_json(content: Any) -> None:
    answers().print(json.dumps(content, indent=2), markup=False)
