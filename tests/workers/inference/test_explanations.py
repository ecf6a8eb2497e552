"""The thread that answers neither loads nor traces, or faster queues would have to wait."""

import time
from pathlib import Path
from threading import current_thread

import numpy as np
import pytest

from contracts.inference.inference import Operation
from contracts.queue.explain_messages import ActivationsRequest, ExplainReply, ExplainRequest
from contracts.queue.messages import Item
from contracts.queue.redis_keys import QueueName
from models.explain.explainer import Explainer
from models.serving.predictor import VersionPredictor
from models.serving.runtime import RuntimeOptions
from tests.models import keras_warnings
from tests.models.explain.versions import published, sample_images, tiny
from tests.workers.inference.cancellation import cancellation_of
from workers.inference.explanations import ExplainerCache, ExplainOperation
from workers.inference.loaded_models import LoadedModels

pytestmark = keras_warnings.ignored


class RecordingPredictor(VersionPredictor):
    """Records the thread that loads the explain graph."""

    def load_explain(self, *, hires: bool = False) -> None:
        if not self.can_explain(hires=hires):
            self.loaded_by = current_thread().name
        super().load_explain(hires=hires)


class RecordingExplainer(Explainer):
    """Records the threads that trace."""

    threads: set[str]

    def warm_up(self, method, layer):
        self.threads = {*getattr(self, "threads", ()), current_thread().name}
        super().warm_up(method, layer)


@pytest.fixture
def predictor(tmp_path: Path) -> RecordingPredictor:
    return RecordingPredictor(
        published(tmp_path, tiny()), max_batch_size=4, options=RuntimeOptions()
    )


@pytest.mark.parametrize(
    ("operation", "question"),
    [
        ("heatmap", ExplainRequest(method="grad_cam")),
        ("study", ExplainRequest(method="grad_cam", metrics=True)),
        ("explain", ExplainRequest(method="layer_cam", layer="conv1")),
        ("explain", ActivationsRequest(channels=2, order="strongest")),
    ],
)
def test_the_thread_that_answers_neither_loads_nor_traces(
    operation: Operation,
    question: ExplainRequest | ActivationsRequest,
    predictor: RecordingPredictor,
    tmp_path: Path,
) -> None:
    explainer = RecordingExplainer(tmp_path / "tiny" / "1", max_batch_size=4, predictor=predictor)
    models = LoadedModels()
    models.add("tiny", predictor)
    explainers = ExplainerCache(lambda *_: explainer, 1, models)
    explain = ExplainOperation(explainers, cancellation_of())
    until = time.time() + 60
    item = Item(bytes(16), until, 0, "r", sample_images(1)[0], class_index=1, note=question.pack())
    yielded: list[int] = []

    def answer() -> bytes:
        (output,) = explain.compute(
            QueueName("tiny", 1, operation), predictor, [item], lambda: yielded.append(1)
        )
        assert np.isfinite(output.vector).all()
        return output.note

    note = answer()
    assert yielded or operation == "heatmap"  # a tiny graph is loaded too quickly
    if operation != "heatmap":
        assert {name.split("_")[0] for name in explainer.threads} == {"explainers"}
    if isinstance(question, ExplainRequest):
        assert ExplainReply.model_validate_json(note).target == 1
    if isinstance(question, ExplainRequest) and question.layer is None:
        assert predictor.loaded_by.startswith("explainers")
    traces = explainer.traces
    assert answer() == note
    assert explainer.traces == traces
