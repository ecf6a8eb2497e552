"""Rates, latencies and states from two looks at a service."""

from io import StringIO

from rich.console import Console

from cli.top.overview import overview
from cli.top.reading import Reading, parse
from cli.top.screen import screen

QUEUE = 'model="m",version="1",operation="classify"'


def reading(at: float, text: str, **parts: list[dict[str, object]]) -> Reading:
    system = {"workers": parts.get("workers", []), "job_workers": []}
    return Reading(at, system, parts.get("jobs", []), parse(text))


def requests(good: int, bad: int) -> str:
    reason = 'outcome="invalid",reason="invalid_image"'
    return (
        f'opsin_requests_total{{{QUEUE},outcome="success",reason=""}} {good}\n'
        f"opsin_requests_total{{{QUEUE},{reason}}} {bad}\n"
    )


def seconds(*cumulative: int) -> str:
    bounds = ("0.1", "0.5", "1.0", "+Inf")
    return "# TYPE opsin_request_seconds histogram\n" + "".join(
        f'opsin_request_seconds_bucket{{{QUEUE},le="{bound}"}} {count}\n'
        for bound, count in zip(bounds, cumulative, strict=True)
    )


def test_rates_and_quantiles_are_those_of_the_time_between() -> None:
    before = reading(10, requests(100, 5) + seconds(100, 100, 100, 105))
    now = reading(20, requests(140, 15) + seconds(100, 140, 150, 155))
    (row,) = overview(before, now)["models"]
    assert (row["requests_per_second"], row["failures_per_second"]) == (5, 1)
    # 40 of 50 between 0.1 and 0.5, 10 up to 1: the 25th and the 47.5th.
    assert row["seconds_p50"] == 0.1 + 0.4 * 25 / 40
    assert row["seconds_p95"] == 0.5 + 0.5 * 7.5 / 10
    assert row["requests"] == 155
    assert row["batch_images"] is None


def test_a_counter_that_began_again_counts_whole() -> None:
    before, now = reading(0, requests(100, 0)), reading(1, requests(30, 0))
    (row,) = overview(before, now)["models"]
    assert row["requests_per_second"] == 30


def test_without_requests_a_latency_is_unknown() -> None:
    text = requests(3, 0) + seconds(1, 2, 3, 3)
    (row,) = overview(reading(0, text), reading(1, text))["models"]
    assert (row["requests_per_second"], row["seconds_p50"]) == (0, None)


def test_the_screen_shows_everything_and_no_markup() -> None:
    labels = 'process="worker",host="[h]",id="w1"'
    text = (
        requests(1, 1)
        + f'opsin_queue_images{{{QUEUE}}} 7\nopsin_info{{version="0.1.0"}} 1\nopsin_ready 1\n'
        + 'opsin_jobs{operation="training",queue="training",state="queued"} 2\n'
        + 'opsin_job_queue_age_seconds{queue="training"} 65\n'
        + f"opsin_process_resident_memory_bytes{{{labels}}} 1048576\n"
    )
    worker: dict[str, object] = {
        "id": "w1",
        "host": "[h]",
        "pid": 1,
        "release": "0.1.0",
        "queues": {},
        "models": [{"name": "m", "version": 1, "operations": ["classify"]}],
    }
    job: dict[str, object] = {
        "id": "job_1",
        "kind": "training",
        "progress": {"fraction": 0.25, "phase": "head", "eta_seconds": 130},
    }
    seen = overview(reading(0, text), reading(1, text, workers=[worker], jobs=[job]))
    console = Console(file=StringIO(), width=160)
    console.print(screen(seen, "http://here", console.width))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("ready", "m:1", " 7", "job_1", "head", "25%", "2:10", "oldest 1:05", "[h]"):
        assert word in shown, word


def test_a_narrow_terminal_cuts_no_name_and_no_heading() -> None:
    name, labels = "efficientnet_lite0", 'process="worker",host="vm",id="f8b42378abea669e"'
    text = (
        requests(1, 1).replace('model="m"', f'model="{name}"')
        + f"opsin_process_resident_memory_bytes{{{labels}}} 4294967296\n"
    )
    models = [{"name": f"{name}_{n}", "version": 1, "operations": ["classify"]} for n in range(5)]
    worker: dict[str, object] = {
        "id": "f8b42378abea669e", "host": "vm", "pid": 1, "release": "0.1.0", "queues": {},
        "models": models,
    }  # fmt: skip
    seen = overview(reading(0, text), reading(1, text, workers=[worker]))
    console = Console(file=StringIO(), width=80)
    console.print(screen(seen, "http://here", console.width))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for word in (
        f"{name}:1",
        "images/s",
        "p95",
        "f8b42378abea",
        "memory",
        *(f"{name}_{n}:1" for n in range(5)),
    ):
        assert word in shown, word
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
