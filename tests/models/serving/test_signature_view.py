from pathlib import Path

import pytest

from models.serving.openvino.frontend import import_openvino
from models.serving.signature_view import only_signature, signature_view
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored


@pytest.mark.parametrize(
    ("endpoint", "output"), [("serve", "probabilities"), ("features", "embedding")]
)
def test_view_has_one_signature(folder: Path, endpoint: str, output: str) -> None:
    with signature_view(folder / "saved_model", endpoint) as view:
        model = import_openvino().Core().read_model(view)
        assert [one.get_any_name() for one in model.inputs] == ["images"]
        assert [one.get_any_name() for one in model.outputs] == [output]
    assert not view.exists()


def test_missing_signature_is_refused(folder: Path) -> None:
    graph = (folder / "saved_model" / "saved_model.pb").read_bytes()
    with pytest.raises(ValueError, match="no signature"):
        only_signature(graph, "serving")
    for broken in (graph[:-7], b"\xff" * 40, b""):
        with pytest.raises(ValueError, match="SavedModel"):
            only_signature(broken, "serve")
