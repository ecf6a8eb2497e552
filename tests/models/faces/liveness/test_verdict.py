"""Correct and wrong answers to a challenge, on tracks written by hand."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from contracts.faces.liveness import ACTIONS, Action, Liveness
from models.faces.liveness.perceptual_hash import sample_hashes
from models.faces.liveness.tracking import Track
from models.faces.liveness.verdict import DETAILS, judge
from tests.models.faces.tracks import FPS, Face, Scene, answer, film

REQUESTED: tuple[Action, ...] = ("turn_left", "close_eyes", "open_mouth")


def faults(verdict: Liveness) -> set[str]:
    assert verdict.live == (not verdict.faults)
    assert all(fault.detail == DETAILS[fault.code] for fault in verdict.faults)
    return {fault.code for fault in verdict.faults}


def fault_codes(
    scenes: Sequence[Scene], requested: Sequence[Action] = REQUESTED, **how: float
) -> set[str]:
    return faults(judge(film(scenes, **how), requested))  # type: ignore[arg-type]


@pytest.mark.parametrize("requested", list(permutations(ACTIONS, 3)), ids="-".join)
def test_every_challenge_can_be_answered(requested: tuple[Action, ...]) -> None:
    verdict = judge(film(answer(requested)), requested)
    assert faults(verdict) == set()
    assert [seen.action for seen in verdict.actions] == list(requested)
    assert all(seen.done and seen.held_ms >= 300 for seen in verdict.actions)


@pytest.mark.parametrize("requested", list(permutations(ACTIONS, 3)), ids="-".join)
def test_an_answer_fits_only_its_challenge(requested: tuple[Action, ...]) -> None:
    other: tuple[Action, ...] = ("turn_left", "look_up", "open_mouth")
    # Every answer contains a pause, so challenges that differ only in it share answers.
    same = [a for a in requested if a != "neutral"] == [a for a in other if a != "neutral"]
    assert (fault_codes(answer(other), requested) == set()) == same


@pytest.mark.parametrize("eyes", [0.2, 0.28, 0.36])
@pytest.mark.parametrize("fps", [10.0, 12.0, 15.0])
def test_actions_are_relative_to_the_own_face(eyes: float, fps: float) -> None:
    face = Face(eyes=eyes, mouth=0.1, yaw=-8, pitch=9)
    assert (
        fault_codes(
            answer(("close_eyes", "look_up", "turn_right"), face),
            fps=fps,
            requested=("close_eyes", "look_up", "turn_right"),
        )
        == set()
    )


def test_the_order_matters() -> None:
    assert fault_codes(answer(("close_eyes", "turn_left", "open_mouth"))) == {"wrong_order"}


@pytest.mark.parametrize("missing", REQUESTED)
def test_a_missing_action_is_reported(missing: Action) -> None:
    done = [action for action in REQUESTED if action != missing]
    verdict = judge(film(answer(done)), REQUESTED)
    assert faults(verdict) == {"missing_action"}
    assert [seen.done for seen in verdict.actions] == [action != missing for action in REQUESTED]


@pytest.mark.parametrize("brief", REQUESTED)
def test_an_action_that_is_not_held_is_reported(brief: Action) -> None:
    scenes = [
        replace(scene, seconds=0.2) if scene.action == brief and scene.strength == 1 else scene
        for scene in answer(REQUESTED)
    ]
    assert fault_codes(scenes) == {"not_held"}


@pytest.mark.parametrize("half", REQUESTED)
def test_half_an_action_does_not_count(half: Action) -> None:
    scenes = [
        replace(scene, strength=0.5) if scene.action == half else scene
        for scene in answer(REQUESTED)
    ]
    assert fault_codes(scenes) == {"missing_action"}


def test_an_action_that_was_not_requested_is_reported() -> None:
    assert fault_codes(answer((*REQUESTED, "look_up"))) == {"unasked_action"}
    assert fault_codes(answer((*REQUESTED, "turn_left"))) == {"unasked_action"}
    both = Face(mouth=0.02)
    scenes = answer(REQUESTED)
    mixed = Scene("turn_right", 0.6, replace(both, mouth=0.7))
    assert fault_codes([*scenes, mixed, Scene("neutral", 0.5)]) == {"unasked_action"}


def test_a_blink_is_not_an_action() -> None:
    scenes = answer(("turn_left", "open_mouth", "look_up"))
    scenes.insert(1, Scene("close_eyes", 0.2))
    scenes.insert(2, Scene("neutral", 0.4))
    assert fault_codes(scenes, ("turn_left", "open_mouth", "look_up")) == set()


def test_a_wink_does_not_count_as_closed_eyes() -> None:
    track = film(answer(("turn_left", "close_eyes", "open_mouth")))
    frames = tuple(
        replace(frame, metrics=replace(frame.metrics, left_eye=0.3)) if frame.metrics else frame
        for frame in track.frames
    )
    assert "missing_action" in faults(judge(Track(frames, track.embeddings), REQUESTED))


def test_a_requested_pause_must_be_in_its_place() -> None:
    requested: tuple[Action, ...] = ("turn_left", "neutral", "turn_right")
    assert fault_codes(answer(requested), requested) == set()
    hurried = [
        Scene("neutral", 1.2),
        Scene("turn_left", 0.7),
        Scene("neutral", 0.1),
        Scene("turn_right", 0.7),
        Scene("neutral", 1.2),
    ]
    assert fault_codes(hurried, requested) == {"not_held"}


def test_a_frozen_face_is_reported() -> None:
    scenes = [
        replace(scene, still=scene.action == "open_mouth" and scene.strength == 1)
        for scene in answer(REQUESTED)
    ]
    assert fault_codes(scenes) == {"frozen"}
    # Slow cameras repeat a frame now and then.
    track = film(answer(REQUESTED))
    frames = tuple(
        replace(frame, motion=0.0 if index % 4 == 1 else 0.8)
        for index, frame in enumerate(track.frames)
    )
    assert faults(judge(Track(frames, track.embeddings), REQUESTED)) == set()


def test_another_person_in_the_middle_is_detected() -> None:
    scenes = answer(REQUESTED)
    other = Face(person=2)
    for changed in range(len(scenes)):
        swapped = [
            replace(scene, face=other) if index >= changed > 0 else scene
            for index, scene in enumerate(scenes)
        ]
        assert fault_codes(swapped) == ({"person_changed"} if changed else set())
    for action in REQUESTED:
        swapped = [replace(s, face=other) if s.action == action else s for s in scenes]
        assert fault_codes(swapped) == {"person_changed"}


def test_two_similar_people_are_distinguished() -> None:
    """The mean of both resembles each of them, so they are compared with each other."""
    track = film(answer(REQUESTED))
    a, b = (np.eye(128, dtype=np.float32)[axis] for axis in range(2))
    similar = 0.75 * a + np.sqrt(1 - 0.75**2) * b  # as similar as strangers are
    middle = len(track.frames) // 2
    embeddings = {
        index: (a if index < middle else similar).astype(np.float32) for index in track.embeddings
    }
    assert faults(judge(Track(track.frames, embeddings), REQUESTED)) == {"person_changed"}


def test_a_cut_between_similar_people_is_detected() -> None:
    """A look-alike performs the actions: similar enough to the mean in any pose, but not from one
    frame to the next."""
    track = film(answer(REQUESTED))
    a, b = (np.eye(128, dtype=np.float32)[axis] for axis in range(2))
    similar = (0.92 * a + np.sqrt(1 - 0.92**2) * b).astype(np.float32)
    acting = {
        index
        for index, frame in enumerate(track.frames)
        if frame.metrics is not None and frame.metrics.mouth > 0.5
    }
    embeddings = {index: similar if index in acting else a for index in track.embeddings}
    cut = Track(track.frames, embeddings)
    assert faults(judge(cut, REQUESTED)) == {"person_changed"}
    assert faults(judge(cut, REQUESTED, same_moment=0.9)) == set()


def test_a_face_without_an_embedding_counts_as_another_person() -> None:
    track = film(answer(REQUESTED))
    known = {
        index: vector
        for index, vector in track.embeddings.items()
        if (metrics := track.frames[index].metrics) is not None and metrics.mouth < 0.4
    }
    assert faults(judge(Track(track.frames, known), REQUESTED)) == {"person_changed"}
    assert faults(judge(Track(track.frames), REQUESTED)) == {"person_changed"}


def test_the_face_must_stay_visible() -> None:
    scenes = answer(REQUESTED)
    scenes.insert(6, Scene("neutral", 0.5, away=True))
    assert fault_codes(scenes) == {"face_lost"}
    scenes[6] = Scene("neutral", 0.13, away=True)
    assert fault_codes(scenes) == set()


def test_a_cut_is_reported_as_a_jump() -> None:
    scenes = answer(REQUESTED)
    cut = [replace(scene, moved=0.9 if index > 5 else 0) for index, scene in enumerate(scenes)]
    assert fault_codes(cut) == {"face_jumped"}


def test_a_clip_without_a_face_is_reported() -> None:
    assert fault_codes([Scene("neutral", 3, away=True)]) >= {"no_face", "person_changed"}
    assert not judge(Track(()), REQUESTED).live


def test_two_faces_are_reported() -> None:
    track = film(answer(REQUESTED))
    frames = tuple(
        replace(frame, faces=2 if index == 9 else 1) for index, frame in enumerate(track.frames)
    )
    assert faults(judge(Track(frames, track.embeddings), REQUESTED)) == {"many_faces"}


def test_length_and_frame_rate_are_limited() -> None:
    assert "low_frame_rate" in fault_codes(answer(REQUESTED), fps=8)
    assert "too_short" in fault_codes([Scene("neutral", 1)])
    assert fault_codes([*answer(REQUESTED), Scene("neutral", 8)]) == {"too_long"}


def test_looking_away_all_the_time_is_reported() -> None:
    assert "not_facing" in fault_codes(answer(REQUESTED, Face(yaw=28)))


def test_a_clip_that_was_sent_before_is_recognized() -> None:
    track = film(answer(REQUESTED))
    times = [frame.time for frame in track.frames]
    stored = sample_hashes(times, [frame.image_hash for frame in track.frames])
    assert len(stored) == pytest.approx(track.seconds * 4, rel=0.2)
    assert faults(judge(track, REQUESTED, earlier=[[], stored])) == {"replayed"}
    # Recompressed: some bits differ everywhere.
    noise = np.random.default_rng(3)
    frames = tuple(
        replace(frame, image_hash=_disturbed(frame.image_hash, 8, noise)) for frame in track.frames
    )
    assert faults(judge(Track(frames, track.embeddings), REQUESTED, earlier=[stored])) == {
        "replayed"
    }
    # Only its last two thirds.
    rest = track.frames[len(track.frames) // 3 :]
    again = Track(tuple(replace(frame, time=frame.time - rest[0].time) for frame in rest))
    assert "replayed" in faults(judge(again, REQUESTED, earlier=[stored]))
    # The same person doing the same again.
    assert faults(judge(film(answer(REQUESTED), seed=1), REQUESTED, earlier=[stored])) == set()
    # Backwards is another order.
    times = [frame.time for frame in track.frames]
    hashes = [frame.image_hash for frame in reversed(track.frames)]
    assert faults(judge(track, REQUESTED, earlier=[sample_hashes(times, hashes)])) == set()


def _disturbed(image_hash: bytes, bits: int, noise: np.random.Generator) -> bytes:
    flat = np.unpackbits(np.frombuffer(image_hash, np.uint8))
    flat[noise.choice(flat.size, bits, replace=False)] ^= 1
    return np.packbits(flat).tobytes()


def test_the_frame_rate_may_vary() -> None:
    """Phones change it with the light: the times matter, not the number of frames."""
    track = film(answer(REQUESTED), fps=2 * FPS)
    chosen = [index for index in range(len(track.frames)) if index % 30 < 15 or index % 2]
    frames = tuple(track.frames[index] for index in chosen)
    embeddings = {new: track.embeddings[old] for new, old in enumerate(chosen)}
    assert faults(judge(Track(frames, embeddings), REQUESTED)) == set()
