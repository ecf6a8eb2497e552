"""Enrollments one after another: the first starts a process, the others find it loaded.

    opsin up &
    python -m benchmarks.faces.enrollment FOLDER --url http://127.0.0.1:8000

FOLDER holds a folder of images for each person. Each person is enrolled, and erased at the end. The
table shows the seconds from the request to the templates, and the processor time of the process in
between. With `--pause`, longer than the process is kept, every enrollment is like the first, as it
was before.
"""

import argparse
import time
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

_MODULE = "workers.jobs.child"
_SUFFIXES = {".jpg", ".jpeg", ".png"}


def main() -> None:
    """Print a row for each person."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0, help="seconds between two")
    arguments = parser.parse_args()
    table = Table("person", "seconds", "processor, s", "templates")
    people = sorted(path for path in arguments.folder.iterdir() if path.is_dir())
    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        for person in people[: arguments.people]:
            files = sorted(p for p in person.iterdir() if p.suffix.lower() in _SUFFIXES)
            table.add_row(person.name, *_enroll(client, person.name, files[: arguments.images]))
            time.sleep(arguments.pause)
    Console(width=80).print(table)


def _enroll(client: httpx.Client, name: str, files: list[Path]) -> tuple[str, str, str]:
    made = client.post("/v1/faces/subjects", json={"name": name}).raise_for_status().json()
    before, spent = _processor_seconds(), 0.0
    began = time.monotonic()
    parts = [("image", (file.name, file.read_bytes())) for file in files]
    answer = client.post(f"/v1/faces/subjects/{made['id']}/enrollments", files=parts)
    job = answer.raise_for_status().json()
    while job["state"] not in {"succeeded", "failed", "cancelled"}:
        time.sleep(0.05)
        now = _processor_seconds()
        spent = max(spent, sum(seconds - before.get(pid, 0.0) for pid, seconds in now.items()))
        job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
    seconds = time.monotonic() - began
    client.delete(f"/v1/faces/subjects/{made['id']}").raise_for_status()
    templates = (job["result"] or {}).get("templates_added", job["state"])
    return f"{seconds:.1f}", f"{spent:.1f}", str(templates)


def _processor_seconds() -> dict[int, float]:
    """User and system time of each process of a job on this machine."""
    found = {}
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        if _MODULE in (process.info["cmdline"] or ()):
            times = process.info["cpu_times"]
            found[process.pid] = times.user + times.system
    return found


if __name__ == "__main__":
    main()
