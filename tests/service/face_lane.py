"""The lane of faces in one process: a network that tells people by how bright they are.

A black picture holds nobody and a white one two people; else there is one face in its middle, whose
embedding turns by a hundredth of a right angle a level. Narrow pictures are of low quality.
"""

import math

import numpy as np

from contracts.faces.clips import ClipAsk, ClipNote, as_video
from contracts.faces.faces import Box, Face, FacesAsk, FacesNote, Point, Quality
from contracts.faces.liveness import ActionSeen, Fault, Liveness
from contracts.faces.subjects import LENGTH
from contracts.queue.messages import Pixels, Reply, Vector

NOBODY, CROWD = 0, 255
NARROW = 20


def vector_of(level: float) -> Vector:
    """The embedding of who is that bright, (128,) of length 1."""
    vector = np.zeros(LENGTH, np.float32)
    angle = level / 100 * math.pi / 2
    vector[0], vector[1] = math.cos(angle), math.sin(angle)
    return vector


def quality(*, acceptable: bool = True) -> Quality:
    return Quality(
        sharpness=100,
        brightness=100,
        yaw=0,
        pitch=0,
        roll=0,
        size=60,
        acceptable=acceptable,
        reasons=() if acceptable else ("blurred", "too_small"),
    )


def seen(pixels: Pixels, version: int, note: bytes) -> Reply:
    """What the worker answers."""
    ask = FacesAsk.model_validate_json(note)
    height, width, _ = pixels.shape
    level = int(pixels.mean())
    face = Face(
        box=Box(x=width / 4, y=height / 4, width=width / 2, height=height / 2),
        score=0.9,
        landmarks={"nose": Point(x=width / 2, y=height / 2)},
        quality=quality(acceptable=width > NARROW),
    )
    found = () if level == NOBODY else (face, face) if level == CROWD else (face,)
    vectors = [vector_of(level)] * (len(found) if ask.embed else 0)
    told = FacesNote(faces=found[: ask.most], total=len(found))
    flat = np.concatenate(vectors) if vectors else np.empty(0, np.float32)
    return Reply(bytes(16), version, 1, 0.001, 0.01, vector=flat, note=told.pack())


def clip_of(level: int, *, live: bool = True, clear: bool = True) -> bytes:
    """A video of somebody that bright, as this lane reads it."""
    return b"RIFF\0\0\0\0AVI " + bytes([level, live, clear])


def judged(pixels: Pixels, version: int, note: bytes) -> Reply:
    """What the worker answers to a clip."""
    ask = ClipAsk.model_validate_json(note)
    level, live, clear = bytes(as_video(pixels, ask.size))[-3:]
    faults = () if live else (Fault(code="wrong_order", detail="The actions are not in order."),)
    seen_actions = tuple(ActionSeen(action=one, held_ms=500, done=True) for one in ask.actions)
    liveness = Liveness(live=bool(live), faults=faults, actions=seen_actions, seconds=6, fps=15)
    told = ClipNote(liveness=liveness, frames=90, matched=5 if clear else 0, face=None)
    vector = vector_of(level) if live and clear else np.empty(0, np.float32)
    return Reply(bytes(16), version, 1, 0.001, 0.01, vector=vector, note=told.pack())
