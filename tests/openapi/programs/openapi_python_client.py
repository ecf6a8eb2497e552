"""Uses the client that openapi-python-client generates: `python … URL KEY IMAGE IMAGE`."""

import io
import json
import sys
from pathlib import Path

from opsin_client import AuthenticatedClient
from opsin_client.api.explanation import filters, heatmap
from opsin_client.api.inference import classify
from opsin_client.api.jobs import follow_job, get_artifact, get_job
from opsin_client.models import (
    ClassifyFilesBody,
    FiltersRequest,
    HeatmapFilesBody,
    HeatmapResponse,
    InferenceResponse,
    Job,
)
from opsin_client.types import File

url, key, *paths = sys.argv[1:]
images = [File(io.BytesIO(Path(path).read_bytes()), Path(path).name) for path in paths]
with AuthenticatedClient(url, token=key) as client:
    classified = classify.sync(client=client, body=ClassifyFilesBody(image=images))
    assert isinstance(classified, InferenceResponse), classified
    labels = [result.predictions[0].label for result in classified.results if result.predictions]

    job = filters.sync(client=client, body=FiltersRequest(filters=[0], steps=2, image_size=32))
    assert isinstance(job, Job), job
    events = follow_job.sync(job.id, client=client)
    assert isinstance(events, str), events
    finished = get_job.sync(job.id, client=client)
    assert isinstance(finished, Job), finished
    artifact = get_artifact.sync_detailed(job.id, "filters.png", client=client)

    again = File(io.BytesIO(Path(paths[0]).read_bytes()), "cat.png")
    shown = heatmap.sync(client=client, body=HeatmapFilesBody(image=[again]))
    assert isinstance(shown, HeatmapResponse), shown

told = {
    "labels": labels,
    "state": str(finished.state),
    "events": events.count("event: state"),
    "artifact": artifact.content[:4].hex(),
    "heatmap": True,
}
sys.stdout.write(json.dumps(told))
