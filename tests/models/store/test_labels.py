import json
from pathlib import Path

import pytest

from models.store.labels import Label, imagenet_labels


def test_thousand_labels_are_sorted_by_synset() -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000
    ids = [label.id for label in labels]
    assert ids == sorted(set(ids))
    assert labels[285] == Label("n02124075", "Egyptian cat")
    assert all(label.text and "_" not in label.text for label in labels)


@pytest.mark.shared
def test_order_and_ids_equal_those_of_keras(shared: Path) -> None:
    index = json.loads((shared / "weights" / "imagenet_class_index.json").read_text())
    assert [label.id for label in imagenet_labels()] == [index[str(i)][0] for i in range(1000)]
    same = sum(
        label.text.replace(" ", "_") == index[str(i)][1]
        for i, label in enumerate(imagenet_labels())
    )
    assert same > 980  # Keras distinguishes a few that have the same name in WordNet
