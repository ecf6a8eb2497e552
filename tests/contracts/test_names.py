"""Names and ids: what they may hold, and their limits, also where the composed form is longer."""

import time
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from contracts.errors import InvalidArchive, ValidationFailed
from contracts.faces.consent import NewConsent
from contracts.faces.devices import NewDevice
from contracts.faces.liveness import NewChallenge
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


@pytest.mark.parametrize(
    "name", ["\u3164", "\u200d\ufe0f", "\u2800 \u115f", "a\u202eb", "a\u0085b"]
)
def test_a_name_that_shows_nothing_or_reverses_text_is_none(name: str) -> None:
    with pytest.raises(ValidationError):
        NewSubject(name=name)
    with pytest.raises(ValidationError):
        NewKey(name=name, scopes=["infer"])
    with pytest.raises(ValidationError):
        NewConsent(version="1", text_digest="sha256:0", by=name)
    with pytest.raises(ValidationFailed):
        checked_label(name)


@pytest.mark.parametrize(
    "sent",
    [
        "0d5ce2f9-0b7f-4b0c-9b3e-5f6c7a1f2e11",
        "dGVzdA+/3Q==",
        "vendor:model/1.2_3-4+5=6@example.org",
        "Ada's phone",
        "社員-42",
        "{0x7f}~#!*'()",
    ],
)
def test_ids_of_clients_are_kept_as_they_are(sent: str) -> None:
    assert NewChallenge(purpose="login", subject_id="sub_1", device_id=sent).device_id == sent
    assert NewSubject(name="Ada", external_id=sent).external_id == sent
    consent = NewConsent(version=sent, text_digest=sent)
    assert (consent.version, consent.text_digest) == (sent, sent)
    if "/" not in sent:  # which would be another path
        assert NewDevice(device_id=sent, public_key={}).device_id == sent


@pytest.mark.parametrize(
    "sent",
    [
        *(
            f"a{hidden}b"
            for hidden in "\u200b\u200d\u2060\ufeff\u00ad\u034f\u3164\ufe0f\u202e\x7f\n"
        ),
        *("a\u00a0b", "a\u3000b", " a", "a ", " ", "\u0344" * 128),
    ],
)
def test_an_id_holds_nothing_that_cannot_be_seen(sent: str) -> None:
    makers: list[Callable[[], object]] = [
        lambda: NewDevice(device_id=sent, public_key={}),
        lambda: NewChallenge(purpose="login", subject_id="sub_1", device_id=sent),
        lambda: NewSubject(name="Ada", external_id=sent[:200]),
        lambda: SubjectChange(external_id=sent[:200]),
        lambda: NewConsent(version=sent, text_digest="sha256:0"),
        lambda: NewConsent(version="1", text_digest=sent),
    ]
    for make in makers:
        with pytest.raises(ValidationError):
            make()


def test_two_spellings_of_an_id_are_one() -> None:
    assert NewDevice(device_id="Zoe\u0308", public_key={}).device_id == "Zoë"
    assert SubjectChange(external_id="Zoe\u0308").external_id == "Zoë"
    assert NewConsent(version="e\u0301", text_digest="1").version == "é"


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
