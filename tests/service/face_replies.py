"""Replies of a fake worker that recognizes people by the brightness of an image.

A black image shows no face and a white one two people. Any other image shows one face in the
center, whose embedding rotates by a hundredth of a right angle per gray level. Narrow images have
low quality.
"""

import math
from base64 import b64encode

import numpy as np

from contracts.faces.clips import ClipReply, ClipRequest, unpack_video
from contracts.faces.faces import Box, Face, FacesReply, FacesRequest, Point, Quality
from contracts.faces.liveness import ActionSeen, Fault, Liveness
from contracts.faces.subjects import EMBEDDING_SIZE
from contracts.queue.messages import Pixels, Reply, Vector
from models.faces.portrait import crop_portrait

NO_FACE, CROWD = 0, 255
NARROW = 20


def vector_of(level: float) -> Vector:
    """The embedding of a gray level, (128,) of unit length."""
    vector = np.zeros(EMBEDDING_SIZE, np.float32)
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


def faces_reply(pixels: Pixels, version: int, note: bytes) -> Reply:
    """The reply to an image."""
    request = FacesRequest.model_validate_json(note)
    height, width, _ = pixels.shape
    level = int(pixels.mean())
    face = Face(
        box=Box(x=width / 4, y=height / 4, width=width / 2, height=height / 2),
        score=0.9,
        landmarks={"nose": Point(x=width / 2, y=height / 2)},
        quality=quality(acceptable=width > NARROW),
    )
    faces = () if level == NO_FACE else (face, face) if level == CROWD else (face,)
    vectors = [vector_of(level)] * (len(faces) if request.embed else 0)
    portrait = None
    if request.portrait and faces:
        portrait = b64encode(crop_portrait(pixels, face.box)).decode()
    reply = FacesReply(faces=faces[: request.max_faces], total=len(faces), portrait=portrait)
    vector = np.concatenate(vectors) if vectors else np.empty(0, np.float32)
    return Reply(bytes(16), version, 1, 0.001, 0.01, vector=vector, note=reply.pack())


def clip_of(level: int, *, live: bool = True, clear: bool = True) -> bytes:
    """A video of a face with that gray level, as `clip_reply` reads it."""
    return b"RIFF\0\0\0\0AVI " + bytes([level, live, clear])


def clip_reply(pixels: Pixels, version: int, note: bytes) -> Reply:
    """The reply to a clip."""
    request = ClipRequest.model_validate_json(note)
    level, live, clear = bytes(unpack_video(pixels, request.size))[-3:]
    faults = () if live else (Fault(code="wrong_order", detail="The actions are not in order."),)
    actions = tuple(ActionSeen(action=action, held_ms=500, done=True) for action in request.actions)
    liveness = Liveness(live=bool(live), faults=faults, actions=actions, seconds=6, fps=15)
    reply = ClipReply(liveness=liveness, frames=90, matched=5 if clear else 0, face=None)
    vector = vector_of(level) if live and clear else np.empty(0, np.float32)
    return Reply(bytes(16), version, 1, 0.001, 0.01, vector=vector, note=reply.pack())
