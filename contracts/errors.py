"""Every error a client can meet: one exception tree, and one table from code to status.

    OpsinError
    ├── BadRequest               400 bad_request
    ├── Unauthorized             401 unauthorized
    ├── Forbidden                403 forbidden
    ├── NotFound                 404 not_found
    │   ├── ModelNotFound            model_not_found
    │   ├── VersionNotFound          version_not_found
    │   ├── LayerNotFound            layer_not_found
    │   ├── JobNotFound              job_not_found
    │   ├── DatasetNotFound          dataset_not_found
    │   └── SubjectNotFound          subject_not_found
    ├── Conflict                 409 conflict
    │   ├── IdempotencyConflict      idempotency_conflict
    │   ├── VersionInUse             version_in_use
    │   └── SubjectExists            subject_exists
    ├── PayloadTooLarge          413 payload_too_large
    ├── UnsupportedMediaType     415 unsupported_media_type
    ├── ValidationFailed         422 validation_error
    │   ├── InvalidImage             invalid_image
    │   ├── ImageTooLarge            image_too_large
    │   ├── InvalidArchive           invalid_archive
    │   ├── InvalidVideo             invalid_video
    │   ├── NotTrainable             not_trainable
    │   ├── NoFace                   no_face
    │   ├── ManyFaces                many_faces
    │   └── LowQualityFace           low_quality_face
    ├── QueueFull                429 queue_full
    ├── RateLimited              429 rate_limited
    ├── LockedOut                429 locked_out
    ├── Unavailable              503 dependency_unavailable
    │   ├── NeedsOperator            (the same code)
    │   │   └── DiskUnusable         (the same code)
    │   ├── ModelNotReady            model_not_ready
    │   ├── NoWorker                 no_worker
    │   └── Draining                 draining
    ├── DeadlineExceeded         504 deadline_exceeded
    └── InternalError            500 internal_error

``detail`` is written for the client and says what to do about it; it never holds a path, a
secret or a stack trace. Those go to the log.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code means on the wire: its HTTP status and its one-line title."""

    status: int
    title: str


CODES: dict[str, Meaning] = {
    "bad_request": Meaning(400, "The request could not be understood"),
    "unauthorized": Meaning(401, "A valid key is required"),
    "forbidden": Meaning(403, "That is not allowed"),
    "not_found": Meaning(404, "There is nothing at this path"),
    "model_not_found": Meaning(404, "There is no model with that name"),
    "version_not_found": Meaning(404, "The model has no such version"),
    "layer_not_found": Meaning(404, "The network has no such layer"),
    "job_not_found": Meaning(404, "There is no such job"),
    "dataset_not_found": Meaning(404, "There is no such dataset"),
    "subject_not_found": Meaning(404, "There is no such subject"),
    "method_not_allowed": Meaning(405, "This path does not accept that method"),
    "conflict": Meaning(409, "The request conflicts with the present state"),
    "idempotency_conflict": Meaning(409, "That Idempotency-Key belongs to another request"),
    "version_in_use": Meaning(409, "An alias points to that version"),
    "subject_exists": Meaning(409, "There is a subject with that external id"),
    "payload_too_large": Meaning(413, "The request is larger than the limit"),
    "unsupported_media_type": Meaning(415, "That content type is not accepted here"),
    "validation_error": Meaning(422, "A value is missing, malformed or out of range"),
    "invalid_image": Meaning(422, "The bytes are not a readable image"),
    "image_too_large": Meaning(422, "The image has more pixels than the limit"),
    "invalid_archive": Meaning(422, "The archive cannot be accepted"),
    "invalid_video": Meaning(422, "The bytes are not an acceptable video"),
    "not_trainable": Meaning(422, "Nothing can be learned from that dataset"),
    "no_face": Meaning(422, "There is no face in the image"),
    "many_faces": Meaning(422, "There is more than one face in the image"),
    "low_quality_face": Meaning(422, "The face is not clear enough (too small, blurred or turned)"),
    "queue_full": Meaning(429, "The queue is full"),
    "rate_limited": Meaning(429, "Too many requests"),
    "locked_out": Meaning(429, "Too many failures; wait"),
    "internal_error": Meaning(500, "Internal error"),
    "dependency_unavailable": Meaning(503, "A dependency of the service does not respond"),
    "model_not_ready": Meaning(503, "The model is not ready"),
    "no_worker": Meaning(503, "No worker is available"),
    "draining": Meaning(503, "The service is shutting down"),
    "deadline_exceeded": Meaning(504, "The deadline passed before the result was ready"),
}


class OpsinError(Exception):
    """The root. A subclass is one code; the instance carries what this client should read.

    Args:
        detail: What went wrong and what to do about it, for the client's eyes.
        retry_after: Seconds after which a retry may succeed; sent as ``Retry-After``.
    """

    code: ClassVar[str] = "internal_error"
    is_passing: ClassVar[bool] = False
    """Whether a job that meets this error is tried again, because the cause passes by itself."""
    is_outcome_unknown = False
    """Whether the database was lost during a commit: what was written may be there all the same."""

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after

    @property
    def meaning(self) -> Meaning:
        return CODES[self.code]


class BadRequest(OpsinError):
    code = "bad_request"


class Unauthorized(OpsinError):
    code = "unauthorized"


class Forbidden(OpsinError):
    code = "forbidden"


class NotFound(OpsinError):
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class VersionNotFound(NotFound):
    code = "version_not_found"


class LayerNotFound(NotFound):
    code = "layer_not_found"


class JobNotFound(NotFound):
    code = "job_not_found"


class DatasetNotFound(NotFound):
    code = "dataset_not_found"


class SubjectNotFound(NotFound):
    code = "subject_not_found"


class Conflict(OpsinError):
    code = "conflict"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class VersionInUse(Conflict):
    code = "version_in_use"


class SubjectExists(Conflict):
    code = "subject_exists"


class PayloadTooLarge(OpsinError):
    code = "payload_too_large"


class UnsupportedMediaType(OpsinError):
    code = "unsupported_media_type"


class ValidationFailed(OpsinError):
    code = "validation_error"


class InvalidImage(ValidationFailed):
    code = "invalid_image"


class ImageTooLarge(ValidationFailed):
    code = "image_too_large"


class InvalidArchive(ValidationFailed):
    code = "invalid_archive"


class InvalidVideo(ValidationFailed):
    code = "invalid_video"


class NotTrainable(ValidationFailed):
    code = "not_trainable"


class NoFace(ValidationFailed):
    code = "no_face"


class ManyFaces(ValidationFailed):
    code = "many_faces"


class LowQualityFace(ValidationFailed):
    code = "low_quality_face"


class QueueFull(OpsinError):
    code = "queue_full"


class RateLimited(OpsinError):
    code = "rate_limited"


class LockedOut(OpsinError):
    code = "locked_out"


class Unavailable(OpsinError):
    code = "dependency_unavailable"
    is_passing = True


class NeedsOperator(Unavailable):
    """Something of the installation is missing or unusable: waiting and retrying do not help."""

    is_passing = False


class DiskUnusable(NeedsOperator):
    """A disk is full, read-only or not mounted."""


class ModelNotReady(Unavailable):
    code = "model_not_ready"
    is_passing = False  # such as missing weights, which no further attempt brings


class NoWorker(Unavailable):
    code = "no_worker"


class Draining(Unavailable):
    code = "draining"


class DeadlineExceeded(OpsinError):
    code = "deadline_exceeded"


class InternalError(OpsinError):
    code = "internal_error"


def error_of(code: str, detail: str, *, retry_after: float | None = None) -> OpsinError:
    """The exception for a code that another process sent; an unknown code is an internal error."""
    return _CLASSES.get(code, InternalError)(detail, retry_after=retry_after)


def _tree(root: type[OpsinError]) -> dict[str, type[OpsinError]]:
    classes: dict[str, type[OpsinError]] = {}
    for child in root.__subclasses__():
        classes |= _tree(child)
    return classes | {root.code: root}


_CLASSES = _tree(OpsinError) | {"internal_error": InternalError}
