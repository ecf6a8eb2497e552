"""Nothing slow is loaded or traced by the thread that answers: the others could not go first."""

import time
from pathlib import Path
from threading import Event, current_thread

import numpy as np
import pytest

from contracts.inference.inference import LaneOperation
from contracts.queue.explain_messages import ActivationsAsk, MapAsk, MapNote
from contracts.queue.messages import Item
from models.explain.explainer import Explainer
from models.serving.predictor import VersionPredictor
from models.serving.runtime import RuntimeOptions
from tests.models import keras_warnings
from tests.models.explain.versions import pictures, published, tiny
from workers.inference.explanations import Explainers, Explaining
from workers.inference.queue import LaneName

pytestmark = keras_warnings.ignored


class Watched(VersionPredictor):
    """Notes the thread that reads the graph that explains."""

    def load_explain(self, *, hires: bool = False) -> None:
        if not self.can_explain(hires=hires):
            self.loaded_by = current_thread().name
        super().load_explain(hires=hires)


class Traced(Explainer):
    """Notes the threads that trace."""

    threads: set[str]

    def rehearse(self, method, layer):
        self.threads = {*getattr(self, "threads", ()), current_thread().name}
        super().rehearse(method, layer)


@pytest.fixture
def predictor(tmp_path: Path) -> Watched:
    return Watched(published(tmp_path, tiny()), max_batch_size=4, options=RuntimeOptions())


@pytest.mark.parametrize(
    ("operation", "ask"),
    [
        ("heatmap", MapAsk(method="grad_cam")),
        ("study", MapAsk(method="grad_cam", metrics=True)),
        ("explain", MapAsk(method="layer_cam", layer="conv1")),
        ("explain", ActivationsAsk(channels=2, order="strongest")),
    ],
)
def test_the_thread_that_answers_neither_loads_nor_traces(
    operation: LaneOperation, ask: MapAsk | ActivationsAsk, predictor: Watched, tmp_path: Path
) -> None:
    explainer = Traced(tmp_path / "tiny" / "1", max_batch_size=4, predictor=predictor)
    explainers = Explainers(lambda *_: explainer, 1, lambda *_: True)
    explaining = Explaining(explainers, is_abandoned=lambda _: False, stopping=Event())
    until = time.time() + 60
    item = Item(bytes(16), until, 0, "r", pictures(1)[0], class_index=1, note=ask.pack())
    gave_way: list[int] = []

    def answer() -> bytes:
        (told,) = explaining(
            LaneName("tiny", 1, operation), predictor, [item], lambda: gave_way.append(1)
        )
        assert np.isfinite(told.vector).all()
        return told.note

    note = answer()
    assert gave_way or operation == "heatmap"  # a tiny graph is read in no time
    if operation != "heatmap":
        assert {name.split("_")[0] for name in explainer.threads} == {"explainers"}
    if isinstance(ask, MapAsk):
        assert MapNote.model_validate_json(note).target == 1
    if isinstance(ask, MapAsk) and ask.layer is None:
        assert predictor.loaded_by.startswith("explainers")
    traces = explainer.traces
    assert answer() == note
    assert explainer.traces == traces
