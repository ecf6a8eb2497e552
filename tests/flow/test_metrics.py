"""What `/metrics` says after requests whose number is known."""

import io
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.flow.installation import Installation
from tests.flow.trainings import wait_for_job
from tests.images import encoded, scene

Samples = dict[tuple[str, ...], float]


def scrape(url: str) -> Samples:
    """All samples by name and sorted labels."""
    text = httpx.get(f"{url}/metrics", timeout=20).text
    return {
        (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all series of a metric with those labels."""
    wanted = {f"{key}={value}" for key, value in labels.items()}
    return sum(value for key, value in samples.items() if key[0] == name and wanted <= set(key[1:]))


def settled(url: str, done: Callable[[Samples], bool]) -> Samples:
    """The metrics, once `done` holds: a worker publishes its own once a second."""
    deadline = time.monotonic() + 20
    while True:
        samples = scrape(url)
        if done(samples) or time.monotonic() > deadline:
            return samples
        time.sleep(0.25)


def classify(client: httpx.Client, content: bytes, path: str = "classify", **options: str) -> int:
    params = {"model": "squeezenet"} | {k: v for k, v in options.items() if k != "timeout"}
    headers = {"X-Timeout-Ms": options["timeout"]} if "timeout" in options else {}
    return client.post(f"/v1/{path}", content=content, params=params, headers=headers).status_code


def several(client: httpx.Client, good: bytes) -> int:
    """Three images, one of them unreadable."""
    files = [("image", io.BytesIO(content)) for content in (good, b"no image", good)]
    return client.post("/v1/classify?model=squeezenet", files=files).status_code


def as_job(client: httpx.Client, good: bytes) -> int:
    """A classification as a job, until it has ended."""
    headers = {"Prefer": "respond-async"}
    answer = client.post("/v1/classify?model=squeezenet", content=good, headers=headers)
    assert wait_for_job(client, answer.json()["id"])["state"] == "succeeded"
    return answer.status_code


def hang_up(url: str) -> int:
    """Leave while the request is being sent."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/classify?model=squeezenet HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: image/png\r\nContent-Length: 1000\r\n\r\n12345"
        )
        time.sleep(0.05)
    return 499


def send_all(running: Installation, client: httpx.Client, times: int) -> Counter[int]:
    """The mix, `times` over; returns the number of responses by status."""
    good = encoded(scene(), "PNG")
    mix: list[Callable[[], int]] = [
        *[partial(classify, client, good)] * 12,
        *[partial(classify, client, good, "embed")] * 2,
        *[partial(classify, client, good, "heatmap")] * 2,
        partial(classify, client, b"no image"),
        partial(classify, client, good, model="unknown"),
        partial(classify, client, good, timeout="1"),
        partial(several, client, good),
        partial(as_job, client, good),
        partial(hang_up, running.url),
    ]
    with ThreadPoolExecutor(6) as pool:
        return Counter(pool.map(lambda one: one(), mix * times))


@pytest.mark.parametrize("times", [4, pytest.param(50, marks=pytest.mark.slow)], ids=["88", "1100"])
def test_metrics_are_true(running: Installation, client: httpx.Client, times: int) -> None:
    first = scrape(running.url)
    send_all(running, client, 1)  # loads what is loaded on first use
    computed = "opsin_computed_images_total"
    settled(running.url, lambda now: total(now, computed) >= total(first, computed) + 17)
    time.sleep(2.5)  # until all processes have published all of it
    before = scrape(running.url)
    statuses = send_all(running, client, times)
    # Without time, a request is refused if others wait, and otherwise it is late.
    assert statuses[429] + statuses[504] == times
    expected = {200: 17 * times, 202: times, 422: times, 404: times, 499: times}
    assert statuses.items() >= expected.items()

    def counted(samples: Samples, name: str, **labels: str) -> float:
        return total(samples, name, **labels) - total(before, name, **labels)

    worked = 17 * times  # 12 + 2 + 2 of `several` + 1 job; heatmaps of one image are cached
    after = settled(
        running.url,
        lambda now: (
            counted(now, "opsin_computed_images_total") >= worked
            and counted(now, "opsin_jobs_ended_total") >= times
            and counted(now, "opsin_http_requests_total", status="499") >= times
        ),
    )
    count = partial(counted, after)
    # API: each request, by outcome.
    queue = {"model": "squeezenet", "version": "1"}
    requests = partial(count, "opsin_requests_total")
    assert requests(**queue, operation="classify", outcome="success") == 14 * times
    assert requests(**queue, operation="embed", outcome="success") == 2 * times
    assert requests(**queue, operation="heatmap", outcome="success") == 2 * times
    assert requests(**queue, outcome="invalid", reason="invalid_image") == times
    assert requests(model="", outcome="invalid", reason="model_not_found") == times
    assert requests(**queue, outcome="deadline", reason="deadline_exceeded") == statuses[504]
    assert requests(**queue, outcome="rejected", reason="queue_full") == statuses[429]
    assert count("opsin_refused_requests_total", reason="queue_full") == statuses[429]
    assert requests(**queue, outcome="cancelled", reason="cancelled") == times
    assert requests() == 22 * times
    assert count("opsin_request_seconds_count") == 22 * times
    assert count("opsin_jobs_ended_total", operation="classify", outcome="succeeded") == times
    for status, number in statuses.items():
        labels = {"operation": "classify", "status": str(status)}
        other = 4 * times if status == 200 else 0
        assert count("opsin_http_requests_total", **labels) == number - other
    # API: each image.
    images = partial(count, "opsin_images_total")
    assert images(operation="classify", reason="") == 14 * times
    assert images(operation="heatmap", reason="") == 2 * times
    assert images(reason="invalid_image") == 2 * times
    cache = partial(count, "opsin_heatmap_cache_requests_total")
    assert (cache(reason="hit"), cache(reason="miss")) == (2 * times, 0)
    # Worker: each batch and each image in it.
    computed = count("opsin_computed_images_total", reason="")
    dropped = count("opsin_dropped_images_total")
    assert worked <= computed + dropped <= worked + times  # those too late may have been computed
    assert count("opsin_batch_images_sum") == computed
    assert count("opsin_queue_seconds_count") == computed - times  # not those of the jobs
    assert count("opsin_executions_total") == count("opsin_compute_seconds_count")
    assert count("opsin_batch_images_count") == count("opsin_executions_total")
    assert count("opsin_reply_seconds_count") == count("opsin_executions_total") - times  # jobs
    # The stages of the API: each image is decoded, each heatmap drawn.
    for operation, number in {"embed": 2, "heatmap": 2}.items():
        decoded = count("opsin_decode_seconds_count", operation=operation)
        assert decoded == number * times, operation
    assert count("opsin_render_seconds_count") == 2 * times
    assert count("opsin_http_request_seconds_count", operation="embed") == 2 * times
    # Nothing is left over.
    assert total(after, "opsin_pending_images") == 0
    assert total(after, "opsin_http_requests_in_progress") == 1  # this one
    assert total(after, "opsin_requests_total", outcome="error") == total(
        before, "opsin_requests_total", outcome="error"
    )


def test_a_client_with_its_response_finds_it_counted(
    running: Installation, client: httpx.Client
) -> None:
    for _ in range(8):
        before = total(scrape(running.url), "opsin_http_requests_total", operation="get_health")
        client.get("/healthz")
        after = total(scrape(running.url), "opsin_http_requests_total", operation="get_health")
        assert after - before == 1
