"""Names stay within their limit, also where Unicode's composed form is longer."""

import time

import pytest
from pydantic import ValidationError

from contracts.errors import InvalidArchive, ValidationFailed
from contracts.faces.subjects import MAX_NAME_LENGTH, NewSubject, SubjectChange
from contracts.keys import NewKey
from contracts.names import composed
from models.datasets import layout
from models.datasets.archives.limits import Limits
from models.datasets.archives.members import checked_name
from models.datasets.labels_file import read_tables
from models.datasets.layout import MAX_LABEL_LENGTH
from service.datasets.upload import checked_label

LONGER = "\ufb2c"  # a Hebrew letter, which becomes three characters


def test_a_name_that_becomes_too_long_is_refused() -> None:
    for model in (NewSubject, SubjectChange):
        with pytest.raises(ValidationError, match="composed"):
            model(name=LONGER * MAX_NAME_LENGTH)
        assert len(model(name=LONGER * 60).name) == 180
    with pytest.raises(ValidationError, match="composed"):
        NewKey(name=LONGER * 100, scopes=["infer"])
    assert len(NewKey(name=LONGER * 30, scopes=["infer"]).name) == 90
    with pytest.raises(ValidationFailed, match="composed"):
        checked_label(LONGER * MAX_LABEL_LENGTH)
    assert len(checked_label(LONGER * 40)) == 120


@pytest.mark.parametrize(
    "name", ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "👩\u200d🚀", "山田\u3000太郎"]
)
def test_a_person_may_have_joiners_and_wide_spaces_in_their_name(name: str) -> None:
    assert NewSubject(name=name).name == name
    assert NewSubject(name="Zoe\u0308").name == "Zoë"
    with pytest.raises(ValidationError):
        NewSubject(name="\u200d")


def test_accents_without_end_are_not_ordered() -> None:
    """That takes quadratic time: minutes for a megabyte, in which no other thread runs."""
    accents = "a" + "\u0301\u0323" * 40_000
    began = time.process_time()
    assert composed(accents) == accents
    assert layout.checked_label(accents) is None
    with pytest.raises(InvalidArchive, match="bytes"):
        checked_name(f"{accents}.jpg", Limits())
    with pytest.raises(ValidationFailed):
        checked_label(accents)
    table = f"file,label\n1.png,{accents}\n2.png,cat\n".encode()
    assert read_tables([("t.csv", table)], ["1.png", "2.png"]).labels.keys() == {"2.png"}
    assert time.process_time() - began < 2
    assert composed("e\u0301" * 1000) == "é" * 1000
