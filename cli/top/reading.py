"""One look at a running service: its metrics, its workers and its running jobs."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from cli.clients.http import RefusedError, ServerClient

_PREFIX = "opsin_"

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One look.

    Attributes:
        at: `time.monotonic()` seconds.
        system: `/v1/system`; empty if the key may not read it.
        jobs: Those that run, as in `/v1/jobs`; empty likewise.
        values: The samples of each metric, by their labels in alphabetical order.
    """

    at: float
    system: dict[str, Any]
    jobs: list[dict[str, Any]]
    values: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)

    def get(self, name: str, **labels: str) -> float | None:
        """The value of a series; None if there is none."""
        return self.values.get(name, {}).get(tuple(sorted(labels.items())))

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all series with these labels."""
        return sum(value for _, value in self.matching(name, **labels))

    def matching(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """All series of a metric with these labels, each with all of its labels."""
        for key, value in self.values.get(name, {}).items():
            found = dict(key)
            if labels.items() <= found.items():
                yield found, value


def read(client: ServerClient) -> Reading:
    """Look at the service.

    Raises:
        CommandError: It does not answer, or refuses the key.
    """
    text = client.request("GET", "/metrics", headers={"Accept": "text/plain"}).text
    at = time.monotonic()
    return Reading(at, _system(client), _jobs(client), parse(text))


def parse(text: str) -> dict[str, dict[Labels, float]]:
    """The samples of Opsin's metrics, without the prefix."""
    values: dict[str, dict[Labels, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(_PREFIX):
                name = sample.name.removeprefix(_PREFIX)
                values[name][tuple(sorted(sample.labels.items()))] = sample.value
    return dict(values)


def _system(client: ServerClient) -> dict[str, Any]:
    try:
        return client.json("GET", "/v1/system")
    except RefusedError:
        return {}


def _jobs(client: ServerClient) -> list[dict[str, Any]]:
    try:
        items = client.json("GET", "/v1/jobs", params={"state": "running", "limit": 50})["items"]
    except RefusedError:
        return []
    return list(items)
