"""Requests to a running server, with the key that belongs to it and errors as plain lines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from cli.access import MAKE_CLI_KEY, cli_key_file
from cli.clients.answers import read_whole
from cli.clients.proof import proven_headers
from cli.output import CommandError, errors, print_error, written_file
from cli.running_home import running_services
from cli.settings import address, is_own, key_headers, reachable
from cli.streams import shown
from contracts.problem import Problem
from contracts.settings import RELEASE, Settings
from contracts.wording import in_words

SPARE_SECONDS = 5.0
_MAX_PAGES = 500

JsonObject = dict[str, Any]
FilePart = tuple[str, tuple[str, bytes, str]]


class NoAnswerError(CommandError):
    """The server could not be reached, or did not finish its answer."""


class RefusedError(CommandError):
    """The server refused a request.

    Attributes:
        code: The problem's code; empty if the answer was not Opsin's.
        detail: The server's words.
        retry_after: Seconds after which the request may succeed, if the server says so.
    """

    def __init__(
        self, message: str, *, code: str = "", detail: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.detail, self.retry_after = code, detail, retry_after


class ServerClient:
    """One server; every request has a deadline, and a refusal is a `CommandError` with its words.

    Args:
        server: The server's URL; this machine's if None.
        seconds: Deadline of a request; the server's own default and a little more if None.
    """

    def __init__(
        self, settings: Settings, server: str | None, *, seconds: float | None = None
    ) -> None:
        self.url = (server or address(settings)).rstrip("/")
        self._settings = settings
        self._headers = key_headers(settings, self.url)
        self._is_withheld = False
        self._seconds = seconds or settings.default_timeout_ms / 1000 + SPARE_SECONDS

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """Send a request; the answer's body is not read yet.

        Raises:
            CommandError: The server does not answer, or refuses.
        """
        more = options.pop("headers", {})
        with self._described(), self._client() as client:
            headers = proven_headers(client, self._settings, self.url)
            self._is_withheld = bool(self._headers) and not headers
            options["headers"] = headers | more
            with client.stream(method, self.url + path, **options) as answer:
                if not answer.is_success:
                    raise self.refusal(answer)
                yield answer

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request and read the whole answer."""
        with self.stream(method, path, **options) as answer:
            read_whole(answer)
            return answer

    def json(self, method: str, path: str, **options: Any) -> JsonObject:
        """Send a request; the answer is a JSON object, or empty."""
        answer = self.request(method, path, **options)
        try:
            return dict(answer.json()) if answer.content else {}
        except (ValueError, TypeError):
            raise CommandError(
                f"{self.url} did not answer as Opsin {RELEASE} does. Does it run that version?"
            ) from None

    def send(
        self,
        path: str,
        parts: Sequence[FilePart],
        fields: Mapping[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Send files and fields as a form."""
        plain = [(name, (None, value)) for name, value in (fields or {}).items()]
        return self.request("POST", path, files=[*plain, *parts], **options)

    def items(self, path: str, **parameters: str | int) -> list[JsonObject]:
        """All pages of a list."""
        items: list[JsonObject] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            more: dict[str, str | int] = {"cursor": cursor} if cursor else {}
            page = self.json("GET", path, params={"limit": 200, **parameters, **more})
            items += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        return items

    def download(self, path: str, to: Path, **options: Any) -> None:
        """Write an answer to a file, whole or not at all."""
        with self.stream("GET", path, **options) as answer, written_file(to) as file:
            for chunk in answer.iter_bytes():
                file.write(chunk)

    def refusal(self, answer: httpx.Response) -> RefusedError:
        """What a refused request becomes."""
        try:
            problem = Problem.model_validate_json(read_whole(answer))
        except ValidationError:
            return RefusedError(f"{self.url} answered {answer.status_code}, not as Opsin does.")
        text = self._key_needed() if problem.code == "unauthorized" else problem.sentence
        wait = _retry_after(answer)
        busy = answer.status_code == httpx.codes.TOO_MANY_REQUESTS
        if wait is not None and busy and "Try again in" not in text:
            text += f" Try again in {in_words(wait)}."
        return RefusedError(text, code=problem.code, detail=problem.detail, retry_after=wait)

    def _key_needed(self) -> str:
        """One line: why this key was refused, and what to do."""
        here, settings = is_own(self._settings, self.url), self._settings
        if not self._headers:
            what = f"A valid key is required at {self.url}, and this command has none."
        elif here and settings.api_key is None:
            file = cli_key_file(settings.home)
            what = f"A valid key is required at {self.url}, and the one in {file} no longer works."
            if self._is_withheld:
                what += (
                    " It was not sent: what answers there does not know it, and may be another "
                    "program, or a service of an earlier release that was not restarted."
                )
        else:
            what = f"A valid key is required at {self.url}; the one that was sent is not valid."
        other = (
            "Or set OPSIN_API_KEY, or pass --key." if here else "Set OPSIN_API_KEY or pass --key."
        )
        return f"{what} {MAKE_CLI_KEY} {other}" if here else f"{what} {other}"

    def _nobody(self) -> str:
        """That no server is there, and which ones are."""
        found = [f"http://{reachable(one.host)}:{one.port}" for one in running_services()]
        others = [url for url in found if url != self.url]
        which = (
            f"the one at {' or '.join(others)} with --server"
            if others
            else ("another one with --server; for one on this machine, OPSIN_PORT is enough")
        )
        return (
            f"No server answers at {self.url}. Start the service with `opsin up`, or name {which}."
        )

    def _client(self) -> httpx.Client:
        # The service is on this machine or was named by the user: no proxy is involved.
        return httpx.Client(timeout=self._seconds, trust_env=False)

    @contextmanager
    def _described(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            raise NoAnswerError(self._nobody()) from None
        except httpx.TimeoutException:
            raise NoAnswerError(
                f"{self.url} did not answer within {self._seconds:g} s. It may be busy: try again."
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = (str(error) or type(error).__name__).rstrip(".")
            raise NoAnswerError(f"{self.url} did not answer: {reason}.") from None
        except ValidationError:
            raise CommandError(
                f"{self.url} did not answer as Opsin {RELEASE} does. Does it run that version?"
            ) from None


def for_each_image(images: Sequence[Path], work: Callable[[Path], None]) -> int:
    """Do it for all, printing what is wrong with an image; how many failed.

    Raises:
        CommandError: The only image failed, or the server does not answer.
    """
    failed = 0
    for path in images:
        try:
            work(path)
        except NoAnswerError:
            raise
        except CommandError as error:
            if len(images) == 1:
                raise
            failed += 1
            print_error(errors(), f"{shown(path.name)}: {error.message}")
    return failed


def file_part(field: str, file: Path) -> FilePart:
    """A file for a form; the server detects what it really is.

    Raises:
        CommandError: It cannot be read, or is empty.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file} cannot be read ({error.strerror}).") from None
    if not data:
        raise CommandError(f"{file} is empty.")
    return field, (shown(file.name), data, "application/octet-stream")


def _retry_after(answer: httpx.Response) -> float | None:
    try:
        return float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        return None
