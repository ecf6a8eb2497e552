"""Clips of real faces, made to move by warping, through decoder, landmarks, embedder and judge."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from contracts.liveness import Action
from models.faces.analyser import FaceAnalyser
from models.faces.clip_verdict import ClipVerdict, verdict_of
from models.faces.finder import FaceFinder
from models.faces.video import VideoLimits, read_frames
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
    earlier: Sequence[Sequence[bytes]] = (),
) -> ClipVerdict:
    return verdict_of(
        read_frames(data, VideoLimits()),
        asked,
        analyser,
        earlier=lambda _looks: earlier,
        between=lambda: None,
    )


def codes(verdict: ClipVerdict) -> set[str]:
    return {fault.code for fault in verdict.liveness.faults}


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("mp4", ASKED),
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
    frames = performance(puppets["person10"], asked, fps=FPS)
    verdict = judged(write_video(tmp_path / f"clip.{kind}", frames, FPS), asked, analyser)
    assert verdict.liveness.live, verdict.liveness
    assert verdict.embedding is not None
    assert np.linalg.norm(verdict.embedding) == pytest.approx(1, abs=1e-5)
