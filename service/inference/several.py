"""One request for several models: its images are read and decoded once, and all models see them.

A worker that has loaded several of them on one base computes that once for each image. What a
client has to correct, such as an unknown model, fails the request; what concerns one model at
present, such as a full queue, is that model's answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fastapi import Request

from contracts.errors import Conflict, ModelNotReady, OpsinError, QueueFull, ValidationFailed
from contracts.inference.inference import InferenceResponse, ItemError, ModelAnswer
from contracts.queue.messages import Pixels, Reply
from contracts.queue.redis_keys import QueueName
from models.faces.provenance import takes_portraits
from models.images.resize import preparation
from models.store.snapshot import ServedVersion
from service.auth.face_models import require_consents, require_still_usable
from service.auth.principal import principal_of
from service.dependencies import Services
from service.faces.portraits import with_portraits
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.uploads import Upload, read_uploads
from service.inference.decoder import DecodedUpload
from service.inference.handler import (
    InferenceHandler,
    InferenceParams,
    VectorOutcome,
    compute_with_retry,
)
from service.metrics.request_record import RequestRecord, current_record, recording

MAX_MODELS = 16
_MAX_NAME = 64
_SPARE_SECONDS = 0.1


def asked_models(request: Request) -> tuple[str, ...]:
    """The models that a request names, each once.

    Raises:
        ValidationFailed: There are too many, or one of several cannot be a name.
    """
    names = tuple(dict.fromkeys(request.query_params.getlist("model")))
    if len(names) > MAX_MODELS:
        raise ValidationFailed(f"At most {MAX_MODELS} models can be asked in one request.")
    if len(names) > 1 and not all(0 < len(name) <= _MAX_NAME for name in names):
        raise ValidationFailed(f"Each 'model' is a name of 1 to {_MAX_NAME} characters.")
    return names


@dataclass(slots=True)
class _Part:
    """One model of the request.

    Attributes:
        name: As it was asked for.
        handler: Of a request for this model alone.
        record: What is counted for it.
        network: The version that answers; None until it is chosen.
        version: Its number.
        decoded: The images as its input.
        error: Why it has no answer.
        response: Its answer.
    """

    name: str
    handler: InferenceHandler
    record: RequestRecord = field(default_factory=RequestRecord)
    network: ServedVersion | None = None
    version: int = 0
    decoded: list[DecodedUpload] = field(default_factory=list)
    error: OpsinError | None = None
    response: InferenceResponse | None = None

    @property
    def queue(self) -> QueueName:
        return QueueName(self.chosen.name, self.version, self.handler.params.operation)

    @property
    def chosen(self) -> ServedVersion:
        """The version, which has been chosen."""
        if self.network is None:
            raise LookupError(f"no version of '{self.name}' was chosen")
        return self.network

    @property
    def pixels(self) -> list[Pixels]:
        """The images that could be decoded."""
        images = (upload.image for upload in self.decoded)
        return [image.pixels for image in images if not isinstance(image, OpsinError)]


@dataclass(frozen=True, slots=True)
class SeveralModels:
    """Handles one request for several models.

    Attributes:
        services: The application's services.
        request: The request, its body not yet read.
        models: Their names.
        params: The parameters for all of them; its `model` is unused.
        deadline: When it must be answered.
    """

    services: Services
    request: Request
    models: Sequence[str]
    params: InferenceParams
    deadline: Deadline

    async def answer(self) -> InferenceResponse:
        """The answers of all models.

        Raises:
            OpsinError: The request is wrong, or no model has an answer.
            ClientDisconnect: The client disconnected; its queued images are withdrawn.
        """
        async with self.deadline.enforced():
            parts = [self._part(name) for name in self.models]
            current_record().parts = [part.record for part in parts]
            for part in parts:
                await self._choose(part)
            _raise_if_none_can(parts)
            self.services.decoder.require_room()
            await self._count()
            uploads = await read_uploads(self.request, self.services.settings)
            self._require_few(len(uploads))
            await while_connected(self.request, self._answer(parts, uploads))
        return _response(parts)

    def _part(self, name: str) -> _Part:
        params = replace(self.params, model=name)
        return _Part(name, InferenceHandler(self.services, self.request, params, self.deadline))

    async def _choose(self, part: _Part) -> None:
        """Choose the version; whether it is not available now is known only by the part."""
        with recording(part.record):
            try:
                part.network, part.version = part.handler.choose()
                await require_consents(self.services, part.network.manifest)
                self.services.dispatcher.require_room(part.queue, self.deadline.at)
            except OpsinError as error:
                if error.meaning.status < 500 and not isinstance(error, QueueFull | Conflict):
                    raise
                part.error = error

    async def _count(self) -> None:
        """Count the request as one for each model; it was counted as one already.

        Raises:
            RateLimited: There were too many.
            ValidationFailed: There would be too many at any time.
        """
        principal, models = principal_of(self.request), len(self.models)
        rate = principal.rate_per_minute
        if rate is not None and models > rate:
            raise ValidationFailed(
                f"A request for {models} models counts as {models}, and this key may send {rate} "
                "a minute. Ask fewer models at a time."
            )
        await self.services.rate_limits.take(principal, count=models - 1)

    def _require_few(self, images: int) -> None:
        """Bound what one request costs: each image runs for each model.

        Raises:
            ValidationFailed: It is too much.
        """
        limit, models = self.services.settings.max_images, len(self.models)
        if images > 1 and images * models > limit:
            raise ValidationFailed(
                f"{images} images for {models} models are too many for one request: they count "
                f"as {images * models}, and {limit} are allowed. Send fewer of either."
            )

    async def _answer(self, parts: Sequence[_Part], uploads: Sequence[Upload]) -> None:
        await self._decode([part for part in parts if part.error is None], uploads)
        live = [part for part in parts if part.error is None and part.pixels]
        images = [(part.queue, part.pixels) for part in live]
        answers: Sequence[Sequence[Reply | OpsinError] | OpsinError] = []
        if images:
            dispatcher = self.services.dispatcher
            # A little earlier, so that the others' answers are sent if one model has none.
            until = self.deadline.at - min(_SPARE_SECONDS, self.deadline.remaining / 10)
            answers = await dispatcher.run_together(images, deadline=until)
        replies = dict(zip((part.queue for part in live), answers, strict=True))
        for part in parts:
            if part.error is None:
                with recording(part.record):
                    await self._finish(part, replies.get(part.queue, []), uploads)
        for part in parts:  # after the last of them, which may have been computed again
            if part.error is None:
                await self._check_again(part)

    async def _decode(self, parts: Sequence[_Part], uploads: Sequence[Upload]) -> None:
        """Decode the images, once for all models whose input is prepared in one way.

        What one model needs besides, such as a face in the image, is wrong for that model only.
        """
        decoded: dict[tuple[object, ...], list[DecodedUpload] | OpsinError] = {}
        for part in parts:
            network = part.chosen
            portraits = takes_portraits(network.manifest)
            key = (portraits, preparation(network, self.params.resize))
            with recording(part.record):
                if key not in decoded:
                    decoded[key] = await self._decoded(part, uploads)
                outcome = decoded[key]
                if isinstance(outcome, OpsinError):
                    part.error = outcome
                else:
                    part.decoded = outcome

    async def _decoded(
        self, part: _Part, uploads: Sequence[Upload]
    ) -> list[DecodedUpload] | OpsinError:
        """The images as one model's input, or why it cannot have them.

        Raises:
            OpsinError: No model can.
        """
        try:
            own = await with_portraits(self.services, part.chosen, uploads, self.deadline)
        except OpsinError as error:
            return error
        return await part.handler.decode(part.chosen, own)

    async def _finish(
        self,
        part: _Part,
        answer: Sequence[Reply | OpsinError] | OpsinError,
        uploads: Sequence[Upload],
    ) -> None:
        """Make the answer of one model, by another version if the chosen one was dropped."""
        part.record.sent(part.queue)
        try:
            if isinstance(answer, OpsinError):
                raise answer
            part.record.replied(answer)
            network, version, outcomes = part.chosen, part.version, _outcomes(part, answer)
            if any(isinstance(outcome.error, ModelNotReady) for outcome in outcomes):
                network, version = part.handler.choose()
                await require_consents(self.services, network.manifest)
                again = await with_portraits(self.services, network, uploads, self.deadline)
                network, version, outcomes = await compute_with_retry(
                    part.handler, network, version, again
                )
            part.network, part.version = network, version
            part.response = await part.handler.response_of(network, version, outcomes)
        except OpsinError as error:
            part.error = error

    async def _check_again(self, part: _Part) -> None:
        try:
            await require_still_usable(self.services, part.chosen.manifest)
        except OpsinError as error:
            part.error = error


def _outcomes(part: _Part, replies: Sequence[Reply | OpsinError]) -> list[VectorOutcome]:
    remaining = iter(replies)
    return [
        VectorOutcome(
            upload, upload.image if isinstance(upload.image, OpsinError) else next(remaining)
        )
        for upload in part.decoded
    ]


def _raise_if_none_can(parts: Sequence[_Part]) -> None:
    errors = [part.error for part in parts if part.error is not None]
    if len(errors) == len(parts):
        raise errors[0]


def _response(parts: Sequence[_Part]) -> InferenceResponse:
    """The answers of all models; the error of the first one if there are none.

    Raises:
        OpsinError: No model has an answer.
    """
    _raise_if_none_can(parts)
    for part in parts:
        if part.error is not None:
            part.record.failed(part.error.meaning.status, part.error.code)
    first = next(part.response for part in parts if part.response is not None)
    return first.model_copy(update={"models": [_model_answer(part) for part in parts]})


def _model_answer(part: _Part) -> ModelAnswer:
    response, version = part.response, part.version or None
    if response is None or part.error is not None:
        error = part.error
        told = None if error is None else ItemError(code=error.code, detail=error.detail)
        return ModelAnswer(model=part.name, version=version, error=told)
    return ModelAnswer(
        model=part.name,
        version=version,
        batch_size=response.batch_size,
        results=response.results,
    )
