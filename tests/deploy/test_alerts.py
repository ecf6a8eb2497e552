"""Each alert fires for the series that it is for, and for none of a healthy service."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = [str(DEPLOY / "prometheus" / name) for name in ("rules.yml", "alerts.yml")]
ALERTS: list[dict[str, Any]] = yaml.safe_load(Path(RULES[1]).read_text())["groups"][0]["rules"]

_OK = 'opsin_requests_total{outcome="success",operation="classify",model="m"}'
_SECONDS = 'opsin_request_seconds_%s{operation="classify"%s}'
# What causes each alert, one value a minute in the notation of promtool; and when it has fired.
CAUSES: dict[str, tuple[dict[str, str], str]] = {
    "OpsinDown": ({'up{job="opsin"}': "0x20"}, "5m"),
    "OpsinNotReady": ({"opsin_ready": "0x20"}, "5m"),
    "OpsinErrorBudgetBurnsFast": (
        {_OK: "0+97x80", _OK.replace("success", "error"): "0+3x80"},
        "70m",
    ),
    "OpsinErrorBudgetBurnsSlowly": (
        {_OK: "0+990x420", _OK.replace("success", "deadline"): "0+10x420"},
        "400m",
    ),
    "OpsinSlow": (
        {_SECONDS % ("bucket", ',le="1.0"'): "0+50x80", _SECONDS % ("count", ""): "0+100x80"},
        "70m",
    ),
    "OpsinWorkerMissing": ({'opsin_workers{kind="inference"}': "2x10 1x20"}, "20m"),
    "OpsinNoJobWorker": (
        {
            'opsin_jobs{operation="training",queue="training",state="queued"}': "1x20",
            'opsin_workers{kind="job"}': "0x20",
        },
        "10m",
    ),
    "OpsinQueueFull": ({'opsin_refused_requests_total{reason="queue_full"}': "0+5x20"}, "15m"),
    "OpsinJobsWaitLong": ({'opsin_job_queue_age_seconds{queue="training"}': "4000x20"}, "10m"),
    "OpsinJobStuck": ({"opsin_job_overdue_seconds": "400x20"}, "10m"),
    "OpsinJobsFail": (
        {
            'opsin_jobs_ended_total{operation="training",outcome="failed",'
            'reason="internal_error"}': "0+1x20"
        },
        "10m",
    ),
    "OpsinDiskFull": ({"opsin_home_free_bytes": "4x20", "opsin_home_bytes": "100x20"}, "10m"),
    "OpsinRedisErrors": ({'opsin_redis_errors_total{reason="TimeoutError"}': "0+60x20"}, "15m"),
    "OpsinDatabaseErrors": (
        {'opsin_database_errors_total{reason="OperationalError"}': "0+60x20"},
        "15m",
    ),
    "OpsinVersionFailsToLoad": (
        {'opsin_version_loads_total{model="m",outcome="failure"}': "0x5 1x20"},
        "10m",
    ),
    "OpsinManyLockouts": ({"opsin_face_lockouts_total": "0+1x20"}, "15m"),
}
HEALTHY = {
    'up{job="opsin"}': "1x420",
    "opsin_info": "1x420",
    "opsin_ready": "1x420",
    _OK: "0+1000x420",
    _SECONDS % ("bucket", ',le="1.0"'): "0+999x420",
    _SECONDS % ("count", ""): "0+1000x420",
    'opsin_workers{kind="inference"}': "2x420",
    'opsin_workers{kind="job"}': "1x420",
    'opsin_jobs{operation="training",queue="training",state="queued"}': "1x420",
    'opsin_job_queue_age_seconds{queue="training"}': "60x420",
    "opsin_job_overdue_seconds": "0x420",
    "opsin_home_free_bytes": "50x420",
    "opsin_home_bytes": "100x420",
    'opsin_version_loads_total{model="m",outcome="success"}': "0+1x420",
    "opsin_face_lockouts_total": "1x420",
}


@pytest.fixture
def promtool() -> str:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is missing; apt-get install prometheus")
    return tool


def fired(promtool: str, folder: Path, series: dict[str, str], at: str) -> set[str]:
    """The alerts that fire for these series, and that of the tool, which compares with none."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": at,
                "exp_samples": [{"labels": '{alertname="none"}', "value": 1}],
            }
        ],
    }
    path = folder / "test.json"  # JSON is YAML
    path.write_text(json.dumps({"rule_files": RULES, "tests": [test]}))
    result = subprocess.run(
        [promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    output = result.stdout + result.stderr
    got = output.partition("got:")[2]
    assert "got:" in output, output
    return {alert["alert"] for alert in ALERTS if f'alertname="{alert["alert"]}"' in got}


def test_rules_are_valid(promtool: str) -> None:
    subprocess.run([promtool, "check", "rules", *RULES], check=True, capture_output=True)


def test_each_alert_has_a_cause() -> None:
    assert {alert["alert"] for alert in ALERTS} == set(CAUSES)
    assert all({"summary", "action"} <= set(alert["annotations"]) for alert in ALERTS)


@pytest.mark.parametrize("alert", CAUSES)
def test_an_alert_fires_for_its_cause(promtool: str, tmp_path: Path, alert: str) -> None:
    series, at = CAUSES[alert]
    assert alert in fired(promtool, tmp_path, series, at)


def test_no_alert_fires_for_a_healthy_service(promtool: str, tmp_path: Path) -> None:
    assert fired(promtool, tmp_path, HEALTHY, "400m") == set()


def test_rules_use_metrics_that_exist() -> None:
    import re

    from contracts.metrics.table import FAMILIES

    known = {f"opsin_{name}" for name in FAMILIES}
    for path in [*map(Path, RULES), *(DEPLOY / "grafana").glob("*.json")]:
        used = set(re.findall(r"\bopsin_[a-z_]+", path.read_text()))
        plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
        assert plain - known == set(), path.name
