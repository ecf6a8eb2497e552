"""The liveness challenge: what a person is asked to do in front of the camera, and the result.

The API creates a challenge, a person performs it, and a worker judges the clip.
`docs/explanation/liveness.md` says how each action is judged and which attacks it cannot stop.
"""

from datetime import datetime
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from contracts.bodies import Body
from contracts.faces.devices import DeviceId
from contracts.faces.subjects import SUBJECT_ID

Action = Literal["turn_left", "turn_right", "look_up", "close_eyes", "open_mouth", "neutral"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""Left and right are the person's own."""
ACTION_COUNT = 3
"""Number of actions in a challenge."""
Purpose = Literal["enroll", "login"]

MAX_SECONDS = 12.0
"""The longest clip that answers a challenge."""
MIN_FPS = 10.0
"""Minimum number of different frames per second in such a clip."""
NONCE_BYTES = 16
CHALLENGE_SECONDS = 90
"""Seconds until a challenge expires."""

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


class NewChallenge(Body):
    """Request for a challenge."""

    model_config = ConfigDict(frozen=True)

    purpose: Purpose = Field(description="The only purpose that the challenge can be used for.")
    subject_id: str = Field(
        pattern=SUBJECT_ID,
        description="The person who will answer it.",
        examples=["sub_8cFq2Vw0kJ6ZrT1n5bXd"],
    )
    device_id: DeviceId | None = Field(
        None,
        description="The device that will send the clip. If given here, send the same device_id "
        "with the clip.",
        examples=["iphone-5f0c"],
    )


class Challenge(BaseModel):
    """What to do in front of the camera, in this order, in one clip."""

    model_config = ConfigDict(frozen=True)

    id: str
    nonce: str = Field(description="128 random bits; send it with the clip. It can be used once.")
    actions: tuple[Action, ...] = Field(description="Left and right are the person's own.")
    expires_at: datetime
    max_seconds: float = Field(MAX_SECONDS, description="Maximum length of the clip.")
    min_fps: float = Field(MIN_FPS, description="Minimum frames per second.")


class Fault(BaseModel):
    """Why a clip does not show a live person, and what to do about it."""

    model_config = ConfigDict(frozen=True)

    code: LivenessReason
    detail: str


class ActionSeen(BaseModel):
    """One of the requested actions."""

    model_config = ConfigDict(frozen=True)

    action: Action
    held_ms: int = Field(ge=0, description="The longest time it was held when it was due.")
    done: bool


class Liveness(BaseModel):
    """Result of a liveness challenge."""

    model_config = ConfigDict(frozen=True)

    live: bool
    faults: tuple[Fault, ...] = ()
    actions: tuple[ActionSeen, ...] = ()
    seconds: float = Field(ge=0, description="Length of the clip.")
    fps: float = Field(ge=0, description="Different frames per second.")
