"""Tracks written by hand: what a person does, scene by scene, as facial metrics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from contracts.faces.liveness import Action
from contracts.queue.messages import Vector
from models.faces.liveness.facial_metrics import FacialMetrics
from models.faces.liveness.tracking import Track, TrackFrame

FPS = 15.0


@dataclass(frozen=True)
class Face:
    """A face as the landmarks and the embedder see it."""

    eyes: float = 0.3
    mouth: float = 0.02
    yaw: float = 2.0
    pitch: float = -3.0
    person: int = 1


@dataclass(frozen=True)
class Scene:
    """A period in which a person does one thing."""

    action: Action
    seconds: float
    face: Face = Face()
    strength: float = 1.0
    """1: as clearly as people do it; less: only part of the way."""
    still: bool = False
    away: bool = False
    moved: float = 0.0
    """Distance from the usual place, in sizes of the face."""


def person(number: int) -> Vector:
    """The embedding of a person."""
    vector = np.random.default_rng(number).normal(size=128)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def film(scenes: Sequence[Scene], *, fps: float = FPS, seed: int = 0) -> Track:
    """The track of successive scenes, with the jitter of landmarks."""
    noise = np.random.default_rng(seed)
    frames: list[TrackFrame] = []
    embeddings: dict[int, Vector] = {}
    start = 0.0
    for scene in scenes:
        count = max(1, round(scene.seconds * fps))
        for number in range(count):
            metrics = None if scene.away else _metrics(scene, noise)
            motion = 0.001 if scene.still else 0.8
            image_hash = noise.bytes(32)
            index = len(frames)
            frames.append(TrackFrame(start + number / fps, metrics, motion, image_hash))
            if metrics is not None:
                vector = person(scene.face.person) + noise.normal(scale=0.01, size=128)
                embeddings[index] = (vector / np.linalg.norm(vector)).astype(np.float32)
        start += count / fps
    return Track(tuple(frames), embeddings)


def _metrics(scene: Scene, noise: np.random.Generator) -> FacialMetrics:
    face, strength = scene.face, scene.strength
    neutral = FacialMetrics(
        face.eyes, face.eyes, face.mouth, face.yaw, face.pitch, 0, 2.0, 1.5, 200.0
    )
    changed = {
        "turn_left": {"yaw": face.yaw + 30 * strength},
        "turn_right": {"yaw": face.yaw - 30 * strength},
        "look_up": {"pitch": face.pitch + 20 * strength},
        "close_eyes": {
            "right_eye": face.eyes * (1 - 0.55 * strength),
            "left_eye": face.eyes * (1 - 0.55 * strength),
        },
        "open_mouth": {"mouth": face.mouth + 0.7 * strength},
        "neutral": {},
    }[scene.action]
    performed = replace(neutral, **changed)
    return replace(
        performed,
        yaw=performed.yaw + noise.normal(scale=0.7),
        pitch=performed.pitch + noise.normal(scale=0.7),
        right_eye=max(0.0, performed.right_eye + noise.normal(scale=0.01)),
        left_eye=max(0.0, performed.left_eye + noise.normal(scale=0.01)),
        mouth=max(0.0, performed.mouth + noise.normal(scale=0.01)),
        x=performed.x + scene.moved + noise.normal(scale=0.005),
    )


def answer(actions: Sequence[Action], face: Face = Face()) -> list[Scene]:
    """An honest answer: each action for a while, with pauses before, between and after."""
    scenes = [Scene("neutral", 1.0, face)]
    for action in actions:
        # Nobody moves instantly.
        scenes += [
            Scene(action, 0.14, face, strength=0.5),
            Scene(action, 0.7, face),
            Scene(action, 0.14, face, strength=0.5),
            Scene("neutral", 0.8, face),
        ]
    return scenes
