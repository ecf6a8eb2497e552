"""The liveness challenge: what a person is asked to do before the camera, and what was seen of it.

A challenge is made by the API, done by a person, judged by a worker. `docs/explanation/liveness.md`
says how each action is judged and what none of it can stop.
"""

from datetime import datetime
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from contracts.faces.subjects import SUBJECT_ID

Action = Literal["turn_left", "turn_right", "look_up", "close_eyes", "open_mouth", "neutral"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""Left and right are the person's own."""
ASKED = 3
"""Actions in a challenge."""
Purpose = Literal["enroll", "login"]

MAX_SECONDS = 12.0
"""The longest clip that answers a challenge."""
MIN_FPS = 10.0
"""Different frames a second that such a clip must have."""
NONCE_BYTES = 16
CHALLENGE_SECONDS = 90
"""A challenge that was not answered by then is forgotten."""

LivenessReason = Literal[
    "too_short",
    "too_long",
    "low_frame_rate",
    "no_face",
    "face_lost",
    "many_faces",
    "face_jumped",
    "frozen",
    "not_facing",
    "no_neutral",
    "missing_action",
    "wrong_order",
    "not_held",
    "unasked_action",
    "person_changed",
    "replayed",
]


class NewChallenge(BaseModel):
    """What a challenge is to be for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: Purpose = Field(description="It serves for nothing else.")
    subject_id: str = Field(
        pattern=SUBJECT_ID, description="Whom it concerns.", examples=["sub_8cFq2Vw0kJ6ZrT1n5bXd"]
    )
    device_id: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="The device that will send the clip; if told here, it must be told there too.",
        examples=["iphone-5f0c"],
    )


class Challenge(BaseModel):
    """What to do before the camera, in this order, within one clip."""

    model_config = ConfigDict(frozen=True)

    id: str
    nonce: str = Field(description="128 random bits; send it with the clip. It serves once.")
    actions: tuple[Action, ...] = Field(description="Left and right are the person's own.")
    expires_at: datetime
    max_seconds: float = Field(MAX_SECONDS, description="The longest clip.")
    min_fps: float = Field(MIN_FPS, description="Frames a second that the clip must have.")


class Fault(BaseModel):
    """Why a clip is not taken for a live person's, and what to do about it."""

    model_config = ConfigDict(frozen=True)

    code: LivenessReason
    detail: str


class ActionSeen(BaseModel):
    """One of the actions that were asked for."""

    model_config = ConfigDict(frozen=True)

    action: Action
    held_ms: int = Field(ge=0, description="The longest time it was held at its turn.")
    done: bool


class Liveness(BaseModel):
    """What became of a challenge."""

    model_config = ConfigDict(frozen=True)

    live: bool
    faults: tuple[Fault, ...] = ()
    actions: tuple[ActionSeen, ...] = ()
    seconds: float = Field(ge=0, description="The clip's length.")
    fps: float = Field(ge=0, description="Different frames a second.")
