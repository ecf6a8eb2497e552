"""One version per job, and the rules for promoting it."""

import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from contracts.inference.manifest import CHAMPION, Draft, Manifest, Provenance
from contracts.training.training_result import Promote, Promotion
from models.store.labels import Label, write_labels
from models.store.manifest import DamagedManifestError
from models.store.store import Store
from models.training.promotion import HELD_OUT_ACCURACY, PromotionCandidate, promote
from models.training.publishing import find_published, publish_once
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


class FakeEvaluator:
    """Returns fixed figures and records the calls; without an accuracy, it is not asked for it."""

    def __init__(self, accuracy: float | None = None, learned: Sequence[int | None] = ()) -> None:
        self.calls: list[tuple[int, list[str]]] = []
        self._accuracy = accuracy
        self._learned = learned

    def accuracy(self, version: Manifest, labels: Sequence[str]) -> float:
        assert self._accuracy is not None, "it was evaluated on the same dataset before"
        self.calls.append((version.version, list(labels)))
        return self._accuracy

    def learned(self, version: Manifest) -> int | None:
        return self._learned[version.version - 1] if self._learned else 0


def promote_if(
    store: Store,
    version: Manifest,
    rule: Promote = "if_better",
    evaluator: FakeEvaluator | None = None,
    *,
    may_replace_people: bool = False,
) -> Promotion:
    candidate = PromotionCandidate(
        version, ("cat", "dog"), rule, evaluator or FakeEvaluator(), may_replace_people
    )
    return promote(store, candidate)


def of_people(job: str, accuracy: float) -> Draft:
    draft = draft_of(job, accuracy)
    provenance = draft.provenance.model_copy(update={"spec": {"subjects": ["cat", "dog"]}})
    return draft.model_copy(update={"provenance": provenance})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_publishing_twice_makes_one_version_per_job(store: Store) -> None:
    first = publish(store, draft_of("job_1"))
    assert publish(store, draft_of("job_1")) == first
    assert publish(store, draft_of("job_2")).version == 2
    assert store.versions("pets") == [1, 2]
    version = find_published(store, "pets", "job_1")
    assert version is not None
    assert version.version == 1
    assert find_published(store, "pets", "job_3") is None


def test_concurrent_publishing_makes_one_version(store: Store) -> None:
    versions: list[int] = []
    threads = [
        threading.Thread(target=lambda: versions.append(publish(store, draft_of("job_1")).version))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert versions == [1, 1, 1, 1]
    assert store.versions("pets") == [1]


def test_draft_without_a_job_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="only a job's"):
        publish(store, DRAFT)


def test_first_version_is_promoted_and_promotion_is_idempotent(store: Store) -> None:
    new = publish(store, draft_of("job_1"))
    assert promote_if(store, new).promoted
    again = promote_if(store, new)
    assert again.promoted
    assert store.aliases("pets") == {CHAMPION: 1}


@pytest.mark.parametrize(("accuracy", "champion"), [(0.91, 2), (0.9, 1), (0.89, 1)])
def test_only_a_better_version_replaces_the_champion(
    store: Store, accuracy: float, champion: int
) -> None:
    promote_if(store, publish(store, draft_of("job_1", 0.9)))
    promotion = promote_if(store, publish(store, draft_of("job_2", accuracy)))
    assert promotion.promoted == (champion == 2)
    assert (promotion.champion, promotion.champion_accuracy) == (1, 0.9)
    assert store.aliases("pets") == {CHAMPION: champion}
    assert "90.00%" in promotion.reason


def test_champion_of_another_dataset_is_evaluated_again(store: Store) -> None:
    promote_if(store, publish(store, draft_of("job_1", 0.99)))
    new = publish(store, draft_of("job_2", 0.8, "sha256:b"))
    evaluator = FakeEvaluator(0.7)
    promotion = promote_if(store, new, evaluator=evaluator)
    assert evaluator.calls == [(1, ["cat", "dog"])]
    assert promotion.promoted
    assert promotion.champion_accuracy == 0.7


def test_champion_of_fewer_classes_of_the_dataset_is_evaluated_again(store: Store) -> None:
    # Its accuracy is that of cats only, and the digest is of the whole dataset.
    promote_if(store, publish(store, draft_of("job_1", 0.99), ("cat",)))
    evaluator = FakeEvaluator(0.5)
    promotion = promote_if(store, publish(store, draft_of("job_2", 0.8)), evaluator=evaluator)
    assert evaluator.calls == [(1, ["cat"])]
    assert (promotion.promoted, promotion.champion_accuracy) == (True, 0.5)


def test_int8_champion_is_evaluated_even_if_it_records_the_accuracy_of_its_float32_version(
    store: Store,
) -> None:
    quantized = draft_of("job_1", 0.91).model_copy(update={"precision": "int8"})
    promote_if(store, publish(store, quantized))
    evaluator = FakeEvaluator(0.885)
    promotion = promote_if(store, publish(store, draft_of("job_2", 0.905)), evaluator=evaluator)
    assert (promotion.promoted, promotion.champion_accuracy) == (True, 0.885)


def test_a_champion_that_cannot_be_read_at_the_moment_is_not_replaced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote_if(store, publish(store, draft_of("job_1", 0.99)))
    new = publish(store, draft_of("job_2", 0.8))

    def fail(_folder: Path) -> Manifest:
        cause = OSError(errno.EMFILE, "Too many open files")
        raise DamagedManifestError("manifest.json cannot be read") from cause

    with monkeypatch.context() as patch:
        patch.setattr("models.store.store.read_manifest", fail)
        promotion = promote_if(store, new)
    assert not promotion.promoted
    assert "at the moment" in promotion.reason
    assert store.aliases("pets") == {CHAMPION: 1}


@pytest.mark.parametrize("name", ["manifest.json", "labels.json"])
def test_a_champion_one_of_whose_files_cannot_be_opened_is_not_replaced(
    store: Store, name: str
) -> None:
    promote_if(store, publish(store, draft_of("job_1", 0.99)))
    new = publish(store, draft_of("job_2", 0.8))
    file = store.path("pets", 1) / name
    file.unlink()
    file.symlink_to(name)  # too many levels of symbolic links
    promotion = promote_if(store, new)
    assert not promotion.promoted
    assert "at the moment" in promotion.reason
    file.unlink()
    assert promote_if(store, new).promoted  # what is lost, is damaged


def test_champion_with_more_classes_is_replaced_only_on_request(store: Store) -> None:
    promote_if(store, publish(store, draft_of("job_1", 0.1), ("cat", "dog", "horse")))
    new = publish(store, draft_of("job_2", 0.9))
    promotion = promote_if(store, new)
    assert not promotion.promoted
    assert "horse" in promotion.reason
    assert promote_if(store, new, "always").promoted


def test_rule_never_does_not_promote(store: Store) -> None:
    assert not promote_if(store, publish(store, draft_of("job_1")), "never").promoted
    assert store.aliases("pets") == {}


@pytest.mark.parametrize("labels", [("cat", "dog"), ("sub_a", "sub_b")])
def test_a_champion_that_recognizes_people_is_neither_evaluated_nor_named_nor_replaced(
    store: Store, labels: tuple[str, str]
) -> None:
    promote_if(store, publish(store, of_people("job_1", 0.1), labels), may_replace_people=True)
    new = publish(store, draft_of("job_2", 0.9, "sha256:b"))
    for rule in ("if_better", "always"):
        promotion = promote_if(store, new, rule)  # type: ignore[arg-type]
        assert (promotion.promoted, promotion.champion_accuracy) == (False, None)
        assert "`faces`" in promotion.reason
        assert "sub_" not in promotion.model_dump_json()
    assert store.aliases("pets") == {CHAMPION: 1}
    assert not promote_if(store, new, may_replace_people=True).promoted  # not compared
    assert promote_if(store, new, "always", may_replace_people=True).promoted


def test_a_version_of_people_is_compared_with_another_one(store: Store) -> None:
    promote_if(store, publish(store, of_people("job_1", 0.5)))
    promotion = promote_if(store, publish(store, of_people("job_2", 0.6)))
    assert (promotion.promoted, promotion.champion_accuracy) == (True, 0.5)


def test_a_champion_that_moves_while_it_is_compared_is_judged_anew(store: Store) -> None:
    promote_if(store, publish(store, draft_of("job_1", 0.1)))
    people = publish(store, of_people("job_2", 0.1))

    class Moving(FakeEvaluator):
        def accuracy(self, version: Manifest, labels: Sequence[str]) -> float:
            store.promote("pets", people.version)
            return super().accuracy(version, labels)

    new = publish(store, draft_of("job_3", 0.9, "sha256:b"))
    promotion = promote_if(store, new, evaluator=Moving(0.2))
    assert (promotion.promoted, promotion.champion) == (False, people.version)
    assert promotion.champion_accuracy is None
    assert store.aliases("pets") == {CHAMPION: people.version}


@pytest.mark.parametrize(
    ("learned", "told"), [([3, 0], "from 0 of them, the champion from 3."), ([None, 0], "")]
)
def test_images_that_one_of_the_compared_has_learned_are_told(
    store: Store, learned: Sequence[int | None], told: str
) -> None:
    promote_if(store, publish(store, draft_of("job_1", 0.1)))
    new = publish(store, draft_of("job_2", 0.9, "sha256:b"))
    promotion = promote_if(store, new, evaluator=FakeEvaluator(0.8, learned))
    assert promotion.promoted
    assert promotion.reason.endswith(told or "on the same images.")
