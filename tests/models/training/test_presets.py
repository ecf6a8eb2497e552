"""Each preset is a complete training, and the fields of a request take precedence over it."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.errors import ValidationFailed
from contracts.training.trainings import TrainingRequest
from models.training.presets import PRESETS, training_request

SENT = {"dataset_id": "ds_1", "model": "mine"}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_with_dataset_and_model_is_a_complete_request(name: str) -> None:
    request = training_request({**SENT, "preset": name})
    assert request.preset == name
    dumped = request.model_dump(mode="json")
    for field, value in PRESETS[name].request.items():
        parts = value.items() if isinstance(value, dict) else ()
        assert all(dumped[field][key] == part for key, part in parts)
        assert parts or dumped[field] == value


def test_all_presets_are_listed() -> None:
    assert list(PRESETS) == [
        "mnist", "mnist_small", "fashion_mnist", "cifar10", "cifar10_vgg19_bn",
        "cats_dogs_scratch", "cats_dogs_frozen", "cats_dogs_finetuned", "fruits360",
        "pets_dropout", "faces",
        "mnist_tuned", "fashion_mnist_tuned", "cifar10_tuned", "cifar10_vgg19_bn_tuned",
        "cats_dogs_scratch_tuned", "cats_dogs_frozen_tuned", "cats_dogs_finetuned_tuned",
        "fruits360_tuned", "pets_dropout_tuned", "faces_tuned",
    ]  # fmt: skip


def test_presets_of_the_tutorials_have_their_values() -> None:
    def fields(name: str) -> Any:
        return training_request({**SENT, "preset": name})

    digits = fields("mnist")
    assert (digits.color_mode, digits.batch_size, digits.learning_rate.scratch) == (
        "grayscale", 500, 0.003,
    )  # fmt: skip
    deep = fields("cifar10_vgg19_bn")
    assert (deep.centering, deep.schedule.at, deep.l2) == ("mean", (80, 160), 5e-4)
    tuned = fields("cats_dogs_finetuned")
    assert (tuned.phases, tuned.head.dropout, tuned.head.pooling) == (("finetune",), 0.3, "flatten")
    assert fields("fruits360").head.units == (1000,)
    assert fields("pets_dropout").pool_dropout is None  # the network's own, 0.8
    assert fields("faces").has_independent_outputs
    assert not fields("faces_tuned").has_independent_outputs


def test_request_takes_precedence_field_by_field() -> None:
    sent: dict[str, Any] = {
        **SENT,
        "preset": "cats_dogs_finetuned_tuned",
        "epochs": {"head": 3},
        "augmentation": {"zoom": 0, "rotation": 5},
        "image_size": 224,
    }
    request = training_request(sent)
    assert (request.epochs.head, request.epochs.finetune) == (3, 50)
    assert request.augmentation.model_dump(exclude_defaults=True) == {
        "shear": 0.2,
        "rotation": 5,
        "horizontal_flip": True,
    }
    assert (request.image_size, request.network) == (224, "vgg16")


def test_a_job_has_new_fields_only_where_they_change_something() -> None:
    plain = training_request({**SENT, "network": "vgg16"})
    job = plain.as_job()
    assert not {"resize", "centering", "l2", "decay"} & job.keys()
    assert "cval" not in job["augmentation"]
    assert TrainingRequest.model_validate(job) == plain
    gray = training_request({**SENT, "preset": "mnist", "augmentation": {"cval": 9}})
    assert (gray.as_job()["color_mode"], gray.as_job()["augmentation"]["cval"]) == ("grayscale", 9)
    assert TrainingRequest.model_validate(gray.as_job()) == gray


def test_null_overrides_a_preset() -> None:
    request = training_request({**SENT, "preset": "mnist_tuned", "early_stopping_patience": None})
    assert request.early_stopping_patience is None


def test_merged_request_is_validated() -> None:
    with pytest.raises(ValidationError, match="no published weights for cnn_small"):
        training_request({**SENT, "preset": "cats_dogs_frozen", "network": "cnn_small"})


@pytest.mark.parametrize("name", ["dogs", 7, {"a": 1}, ""])
def test_unknown_preset_is_refused_with_the_known_ones(name: object) -> None:
    with pytest.raises(ValidationFailed, match="Known: mnist, mnist_small"):
        training_request({**SENT, "preset": name})


def test_presets_need_no_tensorflow() -> None:
    code = (
        "import sys, models.training.presets; "
        "print({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
