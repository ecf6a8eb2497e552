"""The running API as the commands see it: is it there, is it ready, what does it serve."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from pydantic import ValidationError

from cli.output import CommandError
from cli.settings import address, key_headers
from contracts.inference.registry import ModelInfo, Readiness, SystemInfo
from contracts.settings import RELEASE, Settings

_LOOK_SECONDS = 2.0


def server_for(settings: Settings, server: str | None, *, local: bool) -> str | None:
    """The URL of the server that shall answer a command; None where this process shall.

    Args:
        settings: Where a server of this machine listens.
        server: The one that was named, if one was.
        local: Whether none is wanted.

    Raises:
        CommandError: The one that was named does not answer.
    """
    if local:
        return None
    api = Api(settings, server)
    if api.is_opsin():
        return api.url
    if server is not None:
        raise CommandError(
            f"No Opsin answers at {api.url}. Leave --server out to run the network here."
        )
    return None


@contextmanager
def in_words(url: str) -> Iterator[None]:
    """Turn what can go wrong with a question to a server into words.

    Raises:
        CommandError: It did not answer, or not as this release does.
    """
    try:
        yield
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise CommandError(f"{url} did not answer: {why}.") from error
    except ValidationError:
        raise CommandError(
            f"{url} did not answer as Opsin {RELEASE} does. Is it of that version?"
        ) from None


class Api:
    """A short-lived client of one API; every question has a deadline and no answer is None.

    Args:
        url: Where it should be.
        settings: For the key.
    """

    def __init__(self, settings: Settings, url: str | None = None) -> None:
        self.url = (url or address(settings)).rstrip("/")
        self._headers = key_headers(settings)

    def is_opsin(self) -> bool:
        """Whether an Opsin answers there: it alone numbers its answer to `/healthz`."""
        answer = self._get("/healthz")
        return answer is not None and answer.is_success and "x-request-id" in answer.headers

    def readiness(self) -> Readiness | None:
        """What `/readyz` says, whether ready or not."""
        answer = self._get("/readyz")
        try:
            return None if answer is None else Readiness.model_validate(answer.json())
        except (ValueError, ValidationError):
            return None

    def models(self) -> list[ModelInfo]:
        """The models and their states; empty where it does not say."""
        content = self._content("/v1/models?limit=200")
        try:
            return [ModelInfo.model_validate(item) for item in content["items"]]
        except (TypeError, KeyError, ValidationError):
            return []

    def system(self) -> SystemInfo | None:
        """What `/v1/system` says."""
        try:
            return SystemInfo.model_validate(self._content("/v1/system"))
        except ValidationError:
            return None

    def _content(self, path: str) -> Any:
        answer = self._get(path)
        if answer is None or not answer.is_success:
            return None
        try:
            return answer.json()
        except ValueError:
            return None

    def _get(self, path: str) -> httpx.Response | None:
        try:
            # The service is on this machine or was named: a proxy has no part in it.
            with httpx.Client(timeout=_LOOK_SECONDS, trust_env=False) as client:
                return client.get(self.url + path, headers=self._headers)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
