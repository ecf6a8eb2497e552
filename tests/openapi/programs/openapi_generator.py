"""Uses the client that openapi-generator's `python` generates: `python … URL KEY IMAGE IMAGE`."""

import json
import sys
from pathlib import Path

from opsin_api import ApiClient, Configuration, ExplanationApi, InferenceApi, JobsApi
from opsin_api.models.filters_request import FiltersRequest

url, key, *paths = sys.argv[1:]
with ApiClient(Configuration(host=url, access_token=key)) as client:
    images: list[bytes | str | tuple[str, bytes]] = [
        (Path(path).name, Path(path).read_bytes()) for path in paths
    ]
    classified = InferenceApi(client).classify(images)
    labels = [result.predictions[0].label for result in classified.results if result.predictions]

    jobs = JobsApi(client)
    request = FiltersRequest(filters=[0], steps=2, image_size=32)
    job = ExplanationApi(client).filters(request)
    events = jobs.follow_job(job.id)
    finished = jobs.get_job(job.id)
    artifact = jobs.get_artifact(job.id, "filters.png")

    # This client prefers JSON wherever a response may be JSON.
    shown = json.loads(ExplanationApi(client).heatmap([images[0]]))

told = {
    "labels": labels,
    "state": str(finished.state),
    "events": events.count("event: state"),
    "artifact": artifact[:4].hex(),
    "heatmap": "grid" in shown,
}
sys.stdout.write(json.dumps(told))
