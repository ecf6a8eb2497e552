"""Real faces animated by warping, through decoder, landmarks, embedder and verdict."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from contracts.faces.liveness import Action
from contracts.queue.messages import Pixels
from models.faces.analyzer import FaceAnalyzer
from models.faces.detection.finder import FaceFinder
from models.faces.liveness import clip
from models.faces.liveness.verdict import ClipVerdict, judge_clip
from models.faces.liveness.video import VideoFrame, VideoLimits, read_frames
from tests.models.faces.rendering import Face, Puppet, performance, write_video

FPS = 12.0
REQUESTED: tuple[Action, ...] = ("turn_left", "close_eyes", "open_mouth")


@pytest.fixture(scope="module")
def puppets(finder: FaceFinder, shared: Path) -> dict[str, Puppet]:
    """Two people."""
    made = {}
    for name in ("person01", "person10"):
        path = min((shared / "data" / "caltech-faces" / name).iterdir())
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        made[name] = Puppet(Face(image, finder.find(image, 1).faces[0].mesh))
    return made


def judge_data(
    data: bytes,
    requested: Sequence[Action],
    analyzer: FaceAnalyzer,
) -> ClipVerdict:
    return judge_clip(
        read_frames(data, VideoLimits()),
        requested,
        analyzer,
        exchange_hashes=lambda _hashes: (),
        check=lambda: None,
    )


def codes(verdict: ClipVerdict) -> set[str]:
    return {fault.code for fault in verdict.liveness.faults}


@pytest.fixture(scope="module")
def performances(puppets: dict[str, Puppet]) -> dict[str, list[Pixels]]:
    """The performance of each person."""
    return {
        person: list(performance(puppet, REQUESTED, fps=FPS)) for person, puppet in puppets.items()
    }


def encode(frames: Sequence[Pixels], path: Path) -> bytes:
    """Write the frames to a file, all at the size of the first one."""
    height, width = frames[0].shape[:2]
    return write_video(path, (cv2.resize(one, (width, height)) for one in frames), FPS)


def test_an_honest_answer_is_live_and_its_replay_is_not(
    performances: dict[str, list[Pixels]], analyzer: FaceAnalyzer, tmp_path: Path
) -> None:
    stored: list[Sequence[bytes]] = []

    def exchange_hashes(hashes: Sequence[bytes]) -> list[Sequence[bytes]]:
        others = list(stored)
        stored.append(hashes)
        return others

    def judge(data: bytes) -> ClipVerdict:
        frames = read_frames(data, VideoLimits())
        return judge_clip(
            frames, REQUESTED, analyzer, exchange_hashes=exchange_hashes, check=lambda: None
        )

    verdict = judge(encode(performances["person10"], tmp_path / "clip.mp4"))
    assert verdict.liveness.live, verdict.liveness
    assert all(seen.done for seen in verdict.liveness.actions)
    assert verdict.embedding is not None
    assert np.linalg.norm(verdict.embedding) == pytest.approx(1, abs=1e-5)
    assert verdict.matched == 5
    # The same recording in another container, recompressed by another codec, without its start.
    again = judge(encode(performances["person10"][5:], tmp_path / "again.webm"))
    assert codes(again) == {"replayed"}
    assert again.embedding is None


def test_a_face_is_searched_again_when_the_phone_was_turned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its old position means nothing in frames of another size."""
    box = SimpleNamespace(x=2, y=2, width=6, height=6)
    quality = SimpleNamespace(size=6, acceptable=True)
    face: Any = SimpleNamespace(face=SimpleNamespace(box=box, quality=quality))
    followed: list[bool] = []

    class Finder:
        def find(self, image: Pixels, max_faces: int = 32) -> list[Any]:
            return [face]

        def track(self, image: Pixels, previous: object) -> Any:
            followed.append(previous is face)
            return face

    monkeypatch.setattr(clip, "facial_metrics", lambda _: None)
    sizes = [(20, 30), (20, 30), (30, 20), (30, 20)]
    frames = [VideoFrame(n / 10, np.zeros((*size, 3), np.uint8)) for n, size in enumerate(sizes)]
    analyzer: Any = Finder()
    tracked = clip.track_clip(frames, analyzer, lambda _: None)
    assert followed == [False, True, False, True]
    assert tracked.faces == (face,) * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "requested"),
    [
        ("mov", ("open_mouth", "look_up", "turn_right")),
        ("webm", ("close_eyes", "turn_right", "neutral")),
        ("avi", ("look_up", "turn_left", "close_eyes")),
    ],
)
def test_an_honest_answer_is_live_in_every_container(
    kind: str,
    requested: tuple[Action, ...],
    puppets: dict[str, Puppet],
    analyzer: FaceAnalyzer,
    tmp_path: Path,
) -> None:
    frames = list(performance(puppets["person10"], requested, fps=FPS))
    verdict = judge_data(encode(frames, tmp_path / f"clip.{kind}"), requested, analyzer)
    assert verdict.liveness.live, verdict.liveness
    assert verdict.embedding is not None


@pytest.mark.slow
def test_another_person_in_the_second_half_is_detected(
    performances: dict[str, list[Pixels]], analyzer: FaceAnalyzer, tmp_path: Path
) -> None:
    one, other = performances["person10"], performances["person01"]
    middle = len(one) // 2
    verdict = judge_data(
        encode([*one[:middle], *other[middle:]], tmp_path / "clip.mp4"), REQUESTED, analyzer
    )
    assert "person_changed" in codes(verdict), verdict.liveness


@pytest.mark.slow
def test_another_person_who_performs_the_actions_is_detected(
    finder: FaceFinder, shared: Path, analyzer: FaceAnalyzer, tmp_path: Path
) -> None:
    """The cuts are within the movements, and both faces are in the same place: nothing jumps."""
    one, other = (centered_puppet(finder, shared, name) for name in ("person10", "person04"))
    requested: tuple[Action, ...] = ("turn_left", "open_mouth", "turn_right")
    noise = np.random.default_rng(0)

    def frames(
        person: Puppet, action: Action, count: int, start: float, end: float
    ) -> list[Pixels]:
        parts = np.linspace(start, end, count, endpoint=False)
        return [person.frame(action, float(part), noise) for part in parts]

    def acted_by(person: Puppet) -> set[str]:
        clip = frames(one, "neutral", 10, 0, 0)
        for action in requested:
            clip += frames(one, action, 2, 0, 0.5) + frames(person, action, 2, 0.5, 1)
            clip += frames(person, action, 7, 1, 1) + frames(person, action, 2, 1, 0.5)
            clip += frames(one, action, 2, 0.5, 0) + frames(one, "neutral", 6, 0, 0)
        return codes(judge_data(encode(clip, tmp_path / "clip.mp4"), requested, analyzer))

    assert acted_by(one) == set()
    assert "person_changed" in acted_by(other)


def centered_puppet(finder: FaceFinder, shared: Path, name: str) -> Puppet:
    """A person with the eyes at fixed positions in the image."""
    path = min((shared / "data" / "caltech-faces" / name).iterdir())
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    mesh = finder.find(image, 1).faces[0].mesh
    eyes = mesh[[33, 263], :2].astype(np.float32)
    there = np.array([(250, 220), (390, 220)], np.float32)
    matrix, _ = cv2.estimateAffinePartial2D(eyes, there)
    image = cv2.warpAffine(image, matrix, (640, 560), borderMode=cv2.BORDER_REPLICATE)
    return Puppet(Face(image, finder.find(image, 1).faces[0].mesh))


@pytest.mark.slow
def test_successive_still_images_are_detected(
    performances: dict[str, list[Pixels]], analyzer: FaceAnalyzer, tmp_path: Path
) -> None:
    """Images that are each shown for as long as an action takes, as with printed photos."""
    frames = [
        performances["person10"][index - index % 12]
        for index in range(len(performances["person10"]))
    ]
    verdict = judge_data(encode(frames, tmp_path / "clip.mp4"), REQUESTED, analyzer)
    assert {"frozen", "low_frame_rate"} <= codes(verdict), verdict.liveness


@pytest.mark.slow
def test_a_real_clip_without_actions_lacks_only_the_actions(
    shared: Path, analyzer: FaceAnalyzer
) -> None:
    """A real recording of a person person smiles and blinks."""
    data = (shared / "data" / "face-videos" / "single_face.mp4").read_bytes()
    verdict = judge_data(data, REQUESTED, analyzer)
    assert codes(verdict) == {"missing_action", "not_held"}, verdict.liveness
    none = (shared / "data" / "face-videos" / "no_face.mp4").read_bytes()
    assert "no_face" in codes(judge_data(none, REQUESTED, analyzer))
