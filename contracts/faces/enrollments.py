"""Request and result of an enrollment job.

The job finds the video in its folder as `VIDEO`, or the images under the names of `image_name`.
"""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.faces.liveness import Action, Liveness

VIDEO = "video"
MAX_IMAGES = 32


def image_name(index: int) -> str:
    """File name in the job's folder of the image at `index`."""
    return f"image-{index:02d}"


class AnsweredChallenge(BaseModel):
    """A challenge that a video answers; its nonce was correct, and it cannot be used again.

    Attributes:
        actions: What the clip has to show, in order.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    actions: tuple[Action, ...]


class EnrollmentRequest(BaseModel):
    """Request of a job of kind `enrollment`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject_id: str
    images: int = Field(0, ge=0, le=MAX_IMAGES, description="Number of images; 0 means a video.")
    challenge: AnsweredChallenge | None = None

    @model_validator(mode="after")
    def _challenge_needs_video(self) -> Self:
        if self.images and self.challenge:
            raise ValueError("a challenge is answered by a video")
        return self


class FrameCounts(BaseModel):
    """What became of the frames or images."""

    read: int = Field(ge=0)
    used: int = Field(ge=0, description="Each became a template.")
    rejected: dict[str, int] = Field(
        description="How many for which reason: the reasons of a face's quality, and no_face, "
        "many_faces, expression, redundant, unreadable, another_person (not the person of the "
        "other frames) and different_person (not the person the subject is enrolled with)."
    )


class EnrollmentResult(BaseModel):
    """Result of an enrollment job."""

    subject_id: str
    templates_added: int = Field(ge=0)
    frames: FrameCounts
    liveness: Liveness | None = Field(description="null if no challenge was answered.")
