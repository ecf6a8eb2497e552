"""One job, one version, and a champion only by comparison."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from contracts.errors import ValidationFailed
from contracts.inference.manifest import CHAMPION, Draft, Manifest, Provenance
from contracts.training.training_result import Promote
from models.store.labels import Label, write_labels
from models.store.store import Store
from models.training.promotion import HELD_OUT_ACCURACY, Newcomer, promote
from models.training.publishing import publish_once, published
from models.training.validation import check_name
from tests.models.drafts import DRAFT, write_files


def draft_of(job: str, accuracy: float = 0.9, digest: str = "sha256:a") -> Draft:
    provenance = Provenance(job_id=job, dataset_digest=digest)
    metrics = {HELD_OUT_ACCURACY: accuracy}
    return DRAFT.model_copy(update={"provenance": provenance, "metrics": metrics})


def publish(store: Store, draft: Draft, labels: Sequence[str] = ("cat", "dog")) -> Manifest:
    with store.staging() as folder:
        write_files(folder)
        write_labels(folder, [Label(name, name) for name in labels])
        return publish_once(store, "pets", folder, draft)


def never_measured(_old: Manifest, _labels: Sequence[str]) -> float:
    raise AssertionError("it was measured on these pictures before")


def judged(store: Store, new: Manifest, rule: Promote = "if_better", measure=never_measured):  # type: ignore[no-untyped-def]
    return promote(store, Newcomer(new, ("cat", "dog"), rule, measure))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_job_that_publishes_twice_has_one_version(store: Store) -> None:
    first = publish(store, draft_of("job_1"))
    assert publish(store, draft_of("job_1")) == first
    assert publish(store, draft_of("job_2")).version == 2
    assert store.versions("pets") == [1, 2]
    found = published(store, "pets", "job_1")
    assert found is not None
    assert found.version == 1
    assert published(store, "pets", "job_3") is None


def test_two_processes_at_the_same_job_make_one_version(store: Store) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(publish(store, draft_of("job_1")).version))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == [1, 1, 1, 1]
    assert store.versions("pets") == [1]


def test_a_version_without_a_job_cannot_be_published_once(store: Store) -> None:
    with pytest.raises(ValueError, match="only a job's"):
        publish(store, DRAFT)


def test_the_first_version_is_champion_and_stays_it_when_asked_again(store: Store) -> None:
    new = publish(store, draft_of("job_1"))
    assert judged(store, new).promoted
    again = judged(store, new)
    assert again.promoted
    assert store.aliases("pets") == {CHAMPION: 1}


@pytest.mark.parametrize(("accuracy", "champion"), [(0.91, 2), (0.9, 1), (0.89, 1)])
def test_only_the_better_of_two_on_the_same_pictures_wins(
    store: Store, accuracy: float, champion: int
) -> None:
    judged(store, publish(store, draft_of("job_1", 0.9)))
    verdict = judged(store, publish(store, draft_of("job_2", accuracy)))
    assert verdict.promoted == (champion == 2)
    assert (verdict.champion, verdict.champion_accuracy) == (1, 0.9)
    assert store.aliases("pets") == {CHAMPION: champion}
    assert "90.00%" in verdict.reason


def test_on_other_pictures_the_champion_is_measured_anew(store: Store) -> None:
    judged(store, publish(store, draft_of("job_1", 0.99)))
    new = publish(store, draft_of("job_2", 0.8, "sha256:b"))
    measured = []

    def measure(old: Manifest, labels: Sequence[str]) -> float:
        measured.append((old.version, list(labels)))
        return 0.7

    verdict = judged(store, new, measure=measure)
    assert measured == [(1, ["cat", "dog"])]
    assert verdict.promoted
    assert verdict.champion_accuracy == 0.7


def test_a_champion_that_knows_more_classes_is_not_replaced_unasked(store: Store) -> None:
    judged(store, publish(store, draft_of("job_1", 0.1), ("cat", "dog", "horse")))
    new = publish(store, draft_of("job_2", 0.9))
    verdict = judged(store, new)
    assert not verdict.promoted
    assert "horse" in verdict.reason
    assert judged(store, new, "always").promoted


def test_never_is_never(store: Store) -> None:
    assert not judged(store, publish(store, draft_of("job_1")), "never").promoted
    assert store.aliases("pets") == {}


def test_the_names_of_published_networks_are_theirs() -> None:
    check_name("my-vgg16")
    with pytest.raises(ValidationFailed, match="Choose another name"):
        check_name("vgg16")
