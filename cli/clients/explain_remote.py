"""Explanations through a running server."""

import httpx

from cli.clients.api import in_words
from cli.commands.explain import Wanted
from cli.output import CommandError
from cli.settings import key_headers
from contracts.problem import Problem
from contracts.settings import Settings

_SPARE_SECONDS = 5.0


class RemoteExplainer:
    """A `cli.commands.explain.Explains` that asks over HTTP.

    Args:
        settings: Key and deadline: the longest the server takes, since slow methods take long.
        url: The server.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url

    def __call__(self, data: bytes, wanted: Wanted) -> bytes:
        parameters: dict[str, str | int | float | bool] = {
            "method": wanted.method,
            "legend": wanted.legend,
            "alpha": wanted.alpha,
            "colormap": wanted.colormap,
            "compact": True,
        }
        optional = {
            "model": wanted.model,
            "class_index": wanted.class_index,
            "layer": wanted.layer,
        }
        parameters |= {name: value for name, value in optional.items() if value is not None}
        milliseconds = self._settings.max_timeout_ms
        headers = {"X-Timeout-Ms": str(milliseconds), "Accept": "image/png"}
        with in_words(self._url):
            answer = httpx.post(
                f"{self._url}/v1/heatmap",
                params=parameters,
                # The server sniffs the real type; the name alone says that it is a file.
                files={"image": ("photo", data, "image/*")},
                headers=key_headers(self._settings) | headers,
                timeout=milliseconds / 1000 + _SPARE_SECONDS,
                trust_env=False,
            )
            if answer.is_success:
                return answer.content
            problem = Problem.model_validate_json(answer.content)
        raise CommandError(problem.sentence)
