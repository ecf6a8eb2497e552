"""Clips of real faces, made to move by warping, through decoder, landmarks, embedder and judge."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from contracts.faces.liveness import Action
from contracts.queue.messages import Pixels
from models.faces.analyser import FaceAnalyser
from models.faces.detection.finder import FaceFinder
from models.faces.liveness.verdict import ClipVerdict, verdict_of
from models.faces.liveness.video import VideoLimits, read_frames
from tests.models.faces.rendering import Face, Puppet, performance, write_video

FPS = 12.0
ASKED: tuple[Action, ...] = ("turn_left", "close_eyes", "open_mouth")


@pytest.fixture(scope="module")
def puppets(finder: FaceFinder, shared: Path) -> dict[str, Puppet]:
    """Two people."""
    made = {}
    for name in ("person01", "person10"):
        path = min((shared / "data" / "caltech-faces" / name).iterdir())
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        made[name] = Puppet(Face(picture, finder.look(picture, 1).faces[0].mesh))
    return made


def judged(
    data: bytes,
    asked: Sequence[Action],
    analyser: FaceAnalyser,
) -> ClipVerdict:
    return verdict_of(
        read_frames(data, VideoLimits()),
        asked,
        analyser,
        earlier=lambda _looks: (),
        between=lambda: None,
    )


def codes(verdict: ClipVerdict) -> set[str]:
    return {fault.code for fault in verdict.liveness.faults}


@pytest.fixture(scope="module")
def played(puppets: dict[str, Puppet]) -> dict[str, list[Pixels]]:
    """What each of them does when asked."""
    return {who: list(performance(puppet, ASKED, fps=FPS)) for who, puppet in puppets.items()}


def filmed(frames: Sequence[Pixels], path: Path) -> bytes:
    """The frames as a file; people's pictures are of different sizes."""
    height, width = frames[0].shape[:2]
    return write_video(path, (cv2.resize(one, (width, height)) for one in frames), FPS)


def test_an_honest_answer_and_its_replay(
    played: dict[str, list[Pixels]], analyser: FaceAnalyser, tmp_path: Path
) -> None:
    kept: list[Sequence[bytes]] = []

    def earlier(looks: Sequence[bytes]) -> list[Sequence[bytes]]:
        others = list(kept)
        kept.append(looks)
        return others

    def judge(data: bytes) -> ClipVerdict:
        frames = read_frames(data, VideoLimits())
        return verdict_of(frames, ASKED, analyser, earlier=earlier, between=lambda: None)

    verdict = judge(filmed(played["person10"], tmp_path / "clip.mp4"))
    assert verdict.liveness.live, verdict.liveness
    assert all(seen.done for seen in verdict.liveness.actions)
    assert verdict.embedding is not None
    assert np.linalg.norm(verdict.embedding) == pytest.approx(1, abs=1e-5)
    assert verdict.matched == 5
    # The same recording in another container, compressed anew by another codec, its start cut off.
    again = judge(filmed(played["person10"][5:], tmp_path / "again.webm"))
    assert codes(again) == {"replayed"}
    assert again.embedding is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("mov", ("open_mouth", "look_up", "turn_right")),
        ("webm", ("close_eyes", "turn_right", "neutral")),
        ("avi", ("look_up", "turn_left", "close_eyes")),
    ],
)
def test_an_honest_answer_in_every_container(
    kind: str,
    asked: tuple[Action, ...],
    puppets: dict[str, Puppet],
    analyser: FaceAnalyser,
    tmp_path: Path,
) -> None:
    frames = list(performance(puppets["person10"], asked, fps=FPS))
    verdict = judged(filmed(frames, tmp_path / f"clip.{kind}"), asked, analyser)
    assert verdict.liveness.live, verdict.liveness
    assert verdict.embedding is not None


@pytest.mark.slow
def test_another_person_from_the_middle_on(
    played: dict[str, list[Pixels]], analyser: FaceAnalyser, tmp_path: Path
) -> None:
    one, other = played["person10"], played["person01"]
    middle = len(one) // 2
    verdict = judged(
        filmed([*one[:middle], *other[middle:]], tmp_path / "clip.mp4"), ASKED, analyser
    )
    assert "person_changed" in codes(verdict), verdict.liveness


@pytest.mark.slow
def test_somebody_else_who_only_acts(
    finder: FaceFinder, shared: Path, analyser: FaceAnalyser, tmp_path: Path
) -> None:
    """The cuts lie within the movements, and both faces at the same place: nothing jumps."""
    one, other = (framed(finder, shared, name) for name in ("person10", "person04"))
    asked: tuple[Action, ...] = ("turn_left", "open_mouth", "turn_right")
    noise = np.random.default_rng(0)

    def frames(who: Puppet, action: Action, count: int, start: float, end: float) -> list[Pixels]:
        parts = np.linspace(start, end, count, endpoint=False)
        return [who.frame(action, float(part), noise) for part in parts]

    def acted_by(who: Puppet) -> set[str]:
        clip = frames(one, "neutral", 10, 0, 0)
        for action in asked:
            clip += frames(one, action, 2, 0, 0.5) + frames(who, action, 2, 0.5, 1)
            clip += frames(who, action, 7, 1, 1) + frames(who, action, 2, 1, 0.5)
            clip += frames(one, action, 2, 0.5, 0) + frames(one, "neutral", 6, 0, 0)
        return codes(judged(filmed(clip, tmp_path / "clip.mp4"), asked, analyser))

    assert acted_by(one) == set()
    assert "person_changed" in acted_by(other)


def framed(finder: FaceFinder, shared: Path, name: str) -> Puppet:
    """A person whose eyes are where everybody else's are."""
    path = min((shared / "data" / "caltech-faces" / name).iterdir())
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    mesh = finder.look(picture, 1).faces[0].mesh
    eyes = mesh[[33, 263], :2].astype(np.float32)
    there = np.array([(250, 220), (390, 220)], np.float32)
    matrix, _ = cv2.estimateAffinePartial2D(eyes, there)
    picture = cv2.warpAffine(picture, matrix, (640, 560), borderMode=cv2.BORDER_REPLICATE)
    return Puppet(Face(picture, finder.look(picture, 1).faces[0].mesh))


@pytest.mark.slow
def test_stills_one_after_the_other(
    played: dict[str, list[Pixels]], analyser: FaceAnalyser, tmp_path: Path
) -> None:
    """Four pictures, each shown for as long as the action takes: what a print-out could do."""
    frames = [played["person10"][at - at % 12] for at in range(len(played["person10"]))]
    verdict = judged(filmed(frames, tmp_path / "clip.mp4"), ASKED, analyser)
    assert {"frozen", "low_frame_rate"} <= codes(verdict), verdict.liveness


@pytest.mark.slow
def test_a_real_clip_of_somebody_who_was_asked_nothing(
    shared: Path, analyser: FaceAnalyser
) -> None:
    """A real camera: somebody smiles, and blinks. Nothing is wrong but that nothing was done."""
    data = (shared / "data" / "face-videos" / "single_face.mp4").read_bytes()
    verdict = judged(data, ASKED, analyser)
    assert codes(verdict) == {"missing_action", "not_held"}, verdict.liveness
    none = (shared / "data" / "face-videos" / "no_face.mp4").read_bytes()
    assert "no_face" in codes(judged(none, ASKED, analyser))
