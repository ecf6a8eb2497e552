"""The performance page, also with few figures."""

from pathlib import Path

from benchmarks.comparison.figures import Figures, Part, Row
from benchmarks.comparison.page import write_page
from benchmarks.comparison.plots import draw
from benchmarks.comparison.table import rows_of, verdicts
from benchmarks.load.plan import Result
from benchmarks.servers import Memory


def result(throughput: float, p99: float, **more: object) -> Result:
    latency = {"p50": p99 / 2, "p95": p99, "p99": p99}
    return Result(1.0, 10, throughput, latency=latency, **more)  # type: ignore[arg-type]


def sample_part() -> Part:
    stages = {"decode": 1.0, "queue": 1.0, "compute": 2.0, "rest": 1.0}
    ours = Row("Opsin", "1", crowd=[result(300, 60, stages=stages)])
    ours.alone = [result(90, 14, stages=stages)]
    ours.poisson = {0.8: result(240, 50), 0.95: result(285, 200)}
    peer = Row("mosec", "2", crowd=[result(100, 120), result(150, 110), result(120, 130)])
    peer.poisson = {0.8: result(240, 100)}
    same = Row("mosec with OpenVINO", "2", crowd=[result(200, 90)], has_our_runtime=True)
    same.poisson = {0.8: result(240, 40)}
    broken = Row("Ray Serve", "3", failure="it did not | start")
    floor = {"decode_core_ms": 1.0, "compute_core_ms": {"1": 4.0, "8": 3.95}, "runtime": "x"}
    return Part(
        "SqueezeNet 1.1",
        rounds=3,
        floor=floor | {"http_core_ms": 0.05},
        rows=[ours, peer, same, broken],
        curve={1: result(90, 14, stages=stages), 16: result(300, 60, stages=stages)},
        memory={"API": Memory(132.4, 170.6), "worker": Memory(420, 500)},
        cpu={16: {"API": 3.3, "worker": 4.9, "Valkey": 0.5}},
    )


def test_figures_are_medians_and_goals_are_evaluated() -> None:
    part = sample_part()
    assert part.rows[1].throughput == 120
    assert part.best_peer is part.rows[1]
    assert part.bound(2) == 400
    found = {what: (measured, holds) for what, measured, holds in verdicts(part, 2)}
    assert found["Opsin: at least 1.6x the best peer (mosec)"] == ("2.50x", "yes")
    same = "Opsin: at least 1.5x the best peer with our runtime (mosec with OpenVINO)"
    assert found[same] == ("1.50x", "yes")
    assert found["p99 below every peer's at 80% of capacity"] == ("0.50 of the least", "yes")
    tail = "p99 below every peer's with our runtime at 80% of capacity"
    assert found[tail] == ("1.25 of the least", "no")
    assert found["at least 75% of the bound (400 images/s)"] == ("75%", "yes")
    assert found["API: less than 150 MiB"] == ("132 MiB", "yes")
    assert found["worker: less than 400 MiB"] == ("420 MiB", "no")
    # 7 ms minus 1 for decoding and 2 for computing.
    assert found["p50 at 1 client within 3 ms of decode + compute"] == ("4.0 ms over", "no")


def test_int8_has_its_own_goal_for_vgg16() -> None:
    part = sample_part()
    part.title = "VGG16"
    part.rows.insert(1, Row("Opsin int8", "1", crowd=[result(400, 50)]))
    found = {what: measured for what, measured, _ in verdicts(part, 2)}
    assert found["Opsin: at least 2.0x the best peer (mosec)"] == "2.50x"
    assert found["Opsin int8: at least 3.5x the best peer (mosec)"] == "3.33x"


def test_failed_server_has_a_row_with_the_reason() -> None:
    assert "it did not | start" in rows_of(sample_part())[3][1]


def test_page_has_table_plots_and_machine(tmp_path: Path) -> None:
    part = sample_part()
    images = draw(part, tmp_path / "images")
    assert len(images) == 3
    figures = Figures({"processor": "one"}, {"OPSIN_PRECISION": "int8"}, 2, parts=[part])
    write_page(figures, tmp_path / "page.md", images)
    text = (tmp_path / "page.md").read_text()
    assert "**2.50x the images per second of the best peer, mosec.**" in text
    assert "it did not \\| start" in text
    assert "| OPSIN_PRECISION | int8 |" in text
    assert "memory in MiB (with all shared pages): API 132 (171), worker 420 (500);" in text
    assert "| 16 clients | 3.30 | 4.90 | 0.50 | 0.00 | 8.70 |" in text
    for image in images.values():
        assert f"](images/{image.name})" in text


def test_run_without_results_has_a_page(tmp_path: Path) -> None:
    part = Part("VGG16", rows=[Row("Opsin", "1", failure="no weights")])
    assert draw(part, tmp_path) == {}
    write_page(Figures({}, {}, 2, parts=[part]), tmp_path / "page.md", {})
    assert "no weights" in (tmp_path / "page.md").read_text()
