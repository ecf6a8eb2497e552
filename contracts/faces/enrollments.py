"""An enrollment: what the API hands to its job, and what the job makes of it.

The job finds the video in its folder as `VIDEO`, or the images as `image_name` calls them.
"""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.faces.liveness import Action, Liveness

VIDEO = "video"
MOST_IMAGES = 32


def image_name(at: int) -> str:
    """What the image that was sent at that place is called in the job's folder."""
    return f"image-{at:02d}"


class ChallengeTaken(BaseModel):
    """A challenge that the video answers; its nonce was right and is used up."""

    model_config = ConfigDict(frozen=True)

    id: str
    actions: tuple[Action, ...]


class EnrollmentRequest(BaseModel):
    """What a job of kind `enrollment` is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject_id: str
    images: int = Field(0, ge=0, le=MOST_IMAGES, description="How many; 0: there is a video.")
    challenge: ChallengeTaken | None = None

    @model_validator(mode="after")
    def _challenge_needs_video(self) -> Self:
        if self.images and self.challenge:
            raise ValueError("a challenge is answered by a video")
        return self


class FrameCounts(BaseModel):
    """What became of the frames, or images."""

    read: int = Field(ge=0)
    used: int = Field(ge=0, description="Each gave a template.")
    rejected: dict[str, int] = Field(
        description="How many for which reason: those of a face's quality, and no_face, "
        "many_faces, expression, redundant, unreadable, another_person (not the one of the other "
        "frames) and different_person (not the one the subject is enrolled with)."
    )


class EnrollmentResult(BaseModel):
    """The result of the job."""

    subject_id: str
    templates_added: int = Field(ge=0)
    frames: FrameCounts
    liveness: Liveness | None = Field(description="null where no challenge was answered.")
