"""The running API as commands see it: whether it is there and ready, and what it serves."""

from typing import Any

import httpx
from pydantic import ValidationError

from cli.clients.answers import read_whole
from cli.clients.proof import proven_headers
from cli.output import CommandError
from cli.settings import address
from contracts.inference.registry import ModelInfo, Readiness, SystemInfo
from contracts.settings import Settings

_TIMEOUT_SECONDS = 2.0
_MAX_BYTES = 64 * 1024 * 1024


def server_for(settings: Settings, server: str | None, *, local: bool) -> str | None:
    """The URL of the server that answers a command; None if this process is to answer.

    Args:
        server: The server named by the user; this machine's if None.
        local: Whether to use no server.

    Raises:
        CommandError: The named server does not answer.
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


class Api:
    """A client of one API; every request has a short deadline, and None stands for no answer."""

    def __init__(self, settings: Settings, url: str | None = None) -> None:
        self.url = (url or address(settings)).rstrip("/")
        self._settings = settings

    def is_opsin(self) -> bool:
        """Whether an Opsin answers there: only Opsin gives `/healthz` a request id."""
        answer = self._get("/healthz", keyed=False)
        return answer is not None and answer.is_success and "x-request-id" in answer.headers

    def readiness(self) -> Readiness | None:
        """The content of `/readyz`, whether ready or not."""
        answer = self._get("/readyz", keyed=False)
        try:
            return None if answer is None else Readiness.model_validate(answer.json())
        except (ValueError, ValidationError):
            return None

    def models(self) -> list[ModelInfo]:
        """The models and their states; empty if the API does not answer."""
        content = self._content("/v1/models?limit=200")
        try:
            return [ModelInfo.model_validate(item) for item in content["items"]]
        except (TypeError, KeyError, ValidationError):
            return []

    def system(self) -> SystemInfo | None:
        """The content of `/v1/system`."""
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

    def _get(self, path: str, *, keyed: bool = True) -> httpx.Response | None:
        try:
            # The service is on this machine or was named by the user: no proxy is involved.
            with httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
                headers = proven_headers(client, self._settings, self.url) if keyed else {}
                with client.stream("GET", self.url + path, headers=headers) as answer:
                    read_whole(answer, _MAX_BYTES)
                    return answer
        except (httpx.HTTPError, httpx.InvalidURL, CommandError):
            return None
