"""Every way to answer a challenge, well and badly, on tracks that were written down by hand."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from contracts.faces.liveness import ACTIONS, Action, Liveness
from models.faces.liveness.perceptual_hash import looks_kept
from models.faces.liveness.tracking import Track
from models.faces.liveness.verdict import DETAILS, judge
from tests.models.faces.tracks import FPS, Face, Scene, answer, film

ASKED: tuple[Action, ...] = ("turn_left", "close_eyes", "open_mouth")


def faults(verdict: Liveness) -> set[str]:
    assert verdict.live == (not verdict.faults)
    assert all(fault.detail == DETAILS[fault.code] for fault in verdict.faults)
    return {fault.code for fault in verdict.faults}


def judged(scenes: Sequence[Scene], asked: Sequence[Action] = ASKED, **how: float) -> set[str]:
    return faults(judge(film(scenes, **how), asked))  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", list(permutations(ACTIONS, 3)), ids="-".join)
def test_every_challenge_can_be_answered(asked: tuple[Action, ...]) -> None:
    verdict = judge(film(answer(asked)), asked)
    assert faults(verdict) == set()
    assert [seen.action for seen in verdict.actions] == list(asked)
    assert all(seen.done and seen.held_ms >= 300 for seen in verdict.actions)


@pytest.mark.parametrize("asked", list(permutations(ACTIONS, 3)), ids="-".join)
def test_an_answer_to_one_challenge_answers_no_other(asked: tuple[Action, ...]) -> None:
    other: tuple[Action, ...] = ("turn_left", "look_up", "open_mouth")
    # A pause is in every answer, so that two challenges which differ by it alone share answers.
    same = [a for a in asked if a != "neutral"] == [a for a in other if a != "neutral"]
    assert (judged(answer(other), asked) == set()) == same


@pytest.mark.parametrize("eyes", [0.2, 0.28, 0.36])
@pytest.mark.parametrize("fps", [10.0, 12.0, 15.0])
def test_it_is_measured_against_the_persons_own_face(eyes: float, fps: float) -> None:
    face = Face(eyes=eyes, mouth=0.1, yaw=-8, pitch=9)
    assert (
        judged(
            answer(("close_eyes", "look_up", "turn_right"), face),
            fps=fps,
            asked=("close_eyes", "look_up", "turn_right"),
        )
        == set()
    )


def test_the_order_counts() -> None:
    assert judged(answer(("close_eyes", "turn_left", "open_mouth"))) == {"wrong_order"}


@pytest.mark.parametrize("missing", ASKED)
def test_a_missing_action_is_told(missing: Action) -> None:
    done = [action for action in ASKED if action != missing]
    verdict = judge(film(answer(done)), ASKED)
    assert faults(verdict) == {"missing_action"}
    assert [seen.done for seen in verdict.actions] == [action != missing for action in ASKED]


@pytest.mark.parametrize("brief", ASKED)
def test_an_action_that_is_not_held_is_told(brief: Action) -> None:
    scenes = [
        replace(scene, seconds=0.2) if scene.action == brief and scene.strength == 1 else scene
        for scene in answer(ASKED)
    ]
    assert judged(scenes) == {"not_held"}


@pytest.mark.parametrize("half", ASKED)
def test_half_an_action_is_none(half: Action) -> None:
    scenes = [
        replace(scene, strength=0.5) if scene.action == half else scene for scene in answer(ASKED)
    ]
    assert judged(scenes) == {"missing_action"}


def test_an_action_nobody_asked_for_is_told() -> None:
    assert judged(answer((*ASKED, "look_up"))) == {"unasked_action"}
    assert judged(answer((*ASKED, "turn_left"))) == {"unasked_action"}
    both = Face(mouth=0.02)
    scenes = answer(ASKED)
    mixed = Scene("turn_right", 0.6, replace(both, mouth=0.7))
    assert judged([*scenes, mixed, Scene("neutral", 0.5)]) == {"unasked_action"}


def test_a_blink_is_no_action() -> None:
    scenes = answer(("turn_left", "open_mouth", "look_up"))
    scenes.insert(1, Scene("close_eyes", 0.2))
    scenes.insert(2, Scene("neutral", 0.4))
    assert judged(scenes, ("turn_left", "open_mouth", "look_up")) == set()


def test_a_wink_shuts_no_eyes() -> None:
    track = film(answer(("turn_left", "close_eyes", "open_mouth")))
    frames = tuple(
        replace(frame, signals=replace(frame.signals, left_eye=0.3)) if frame.signals else frame
        for frame in track.frames
    )
    assert "missing_action" in faults(judge(Track(frames, track.embeddings), ASKED))


def test_a_pause_that_is_asked_for_must_be_at_its_place() -> None:
    asked: tuple[Action, ...] = ("turn_left", "neutral", "turn_right")
    assert judged(answer(asked), asked) == set()
    hurried = [
        Scene("neutral", 1.2),
        Scene("turn_left", 0.7),
        Scene("neutral", 0.1),
        Scene("turn_right", 0.7),
        Scene("neutral", 1.2),
    ]
    assert judged(hurried, asked) == {"not_held"}


def test_a_face_that_stands_still_is_a_picture() -> None:
    scenes = [
        replace(scene, still=scene.action == "open_mouth" and scene.strength == 1)
        for scene in answer(ASKED)
    ]
    assert judged(scenes) == {"frozen"}
    # Two of the same now and then is what slow cameras give.
    track = film(answer(ASKED))
    frames = tuple(
        replace(frame, motion=0.0 if at % 4 == 1 else 0.8) for at, frame in enumerate(track.frames)
    )
    assert faults(judge(Track(frames, track.embeddings), ASKED)) == set()


def test_another_person_in_the_middle_is_found() -> None:
    scenes = answer(ASKED)
    other = Face(person=2)
    for changed in range(len(scenes)):
        swapped = [
            replace(scene, face=other) if at >= changed > 0 else scene
            for at, scene in enumerate(scenes)
        ]
        assert judged(swapped) == ({"person_changed"} if changed else set())
    for action in ASKED:
        swapped = [replace(s, face=other) if s.action == action else s for s in scenes]
        assert judged(swapped) == {"person_changed"}


def test_two_people_half_alike_are_two_people() -> None:
    """The mean of both is like each of them; so they are compared with one another."""
    track = film(answer(ASKED))
    a, b = (np.eye(128, dtype=np.float32)[at] for at in range(2))
    like = 0.75 * a + np.sqrt(1 - 0.75**2) * b  # as alike as strangers are
    middle = len(track.frames) // 2
    embeddings = {at: (a if at < middle else like).astype(np.float32) for at in track.embeddings}
    assert faults(judge(Track(track.frames, embeddings), ASKED)) == {"person_changed"}


def test_a_cut_between_people_who_are_alike_is_found() -> None:
    """A look-alike who only acts: like enough to the mean for any pose, but not from one frame to
    the next."""
    track = film(answer(ASKED))
    a, b = (np.eye(128, dtype=np.float32)[at] for at in range(2))
    like = (0.92 * a + np.sqrt(1 - 0.92**2) * b).astype(np.float32)
    acting = {
        at
        for at, frame in enumerate(track.frames)
        if frame.signals is not None and frame.signals.mouth > 0.5
    }
    embeddings = {at: like if at in acting else a for at in track.embeddings}
    cut = Track(track.frames, embeddings)
    assert faults(judge(cut, ASKED)) == {"person_changed"}
    assert faults(judge(cut, ASKED, same_moment=0.9)) == set()


def test_an_action_whose_face_was_not_compared_does_not_count() -> None:
    track = film(answer(ASKED))
    known = {
        at: vector
        for at, vector in track.embeddings.items()
        if (signals := track.frames[at].signals) is not None and signals.mouth < 0.4
    }
    assert faults(judge(Track(track.frames, known), ASKED)) == {"person_changed"}
    assert faults(judge(Track(track.frames), ASKED)) == {"person_changed"}


def test_the_face_must_stay() -> None:
    scenes = answer(ASKED)
    scenes.insert(6, Scene("neutral", 0.5, away=True))
    assert judged(scenes) == {"face_lost"}
    scenes[6] = Scene("neutral", 0.13, away=True)
    assert judged(scenes) == set()


def test_a_cut_is_a_jump() -> None:
    scenes = answer(ASKED)
    cut = [replace(scene, moved=0.9 if at > 5 else 0) for at, scene in enumerate(scenes)]
    assert judged(cut) == {"face_jumped"}


def test_a_clip_without_a_face() -> None:
    assert judged([Scene("neutral", 3, away=True)]) >= {"no_face", "person_changed"}
    assert not judge(Track(()), ASKED).live


def test_two_faces_are_too_many() -> None:
    track = film(answer(ASKED))
    frames = tuple(
        replace(frame, faces=2 if at == 9 else 1) for at, frame in enumerate(track.frames)
    )
    assert faults(judge(Track(frames, track.embeddings), ASKED)) == {"many_faces"}


def test_length_and_rate() -> None:
    assert "low_frame_rate" in judged(answer(ASKED), fps=8)
    assert "too_short" in judged([Scene("neutral", 1)])
    assert judged([*answer(ASKED), Scene("neutral", 8)]) == {"too_long"}


def test_looking_away_all_the_time_is_no_baseline() -> None:
    assert "not_facing" in judged(answer(ASKED, Face(yaw=28)))


def test_a_clip_that_was_sent_before_is_known_again() -> None:
    track = film(answer(ASKED))
    times = [frame.at for frame in track.frames]
    kept = looks_kept(times, [frame.look for frame in track.frames])
    assert len(kept) == pytest.approx(track.seconds * 4, rel=0.2)
    assert faults(judge(track, ASKED, earlier=[[], kept])) == {"replayed"}
    # Compressed anew: some bits differ everywhere.
    noise = np.random.default_rng(3)
    frames = tuple(replace(frame, look=_disturbed(frame.look, 8, noise)) for frame in track.frames)
    assert faults(judge(Track(frames, track.embeddings), ASKED, earlier=[kept])) == {"replayed"}
    # Its first half only, and one that begins later.
    half = track.frames[len(track.frames) // 3 :]
    again = Track(tuple(replace(frame, at=frame.at - half[0].at) for frame in half))
    assert "replayed" in faults(judge(again, ASKED, earlier=[kept]))
    # The same person doing the same once more.
    assert faults(judge(film(answer(ASKED), seed=1), ASKED, earlier=[kept])) == set()
    # Backwards is another order.
    times = [frame.at for frame in track.frames]
    looks = [frame.look for frame in reversed(track.frames)]
    assert faults(judge(track, ASKED, earlier=[looks_kept(times, looks)])) == set()


def _disturbed(look: bytes, bits: int, noise: np.random.Generator) -> bytes:
    flat = np.unpackbits(np.frombuffer(look, np.uint8))
    flat[noise.choice(flat.size, bits, replace=False)] ^= 1
    return np.packbits(flat).tobytes()


def test_frames_come_at_any_rate() -> None:
    """Phones change theirs with the light: the times count, not the number."""
    track = film(answer(ASKED), fps=2 * FPS)
    kept = [at for at in range(len(track.frames)) if at % 30 < 15 or at % 2]
    frames = tuple(track.frames[at] for at in kept)
    embeddings = {new: track.embeddings[old] for new, old in enumerate(kept)}
    assert faults(judge(Track(frames, embeddings), ASKED)) == set()
