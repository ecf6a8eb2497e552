"""The faces of a running server."""

from collections.abc import Sequence

from cli.clients.http import FilePart, JsonObject, ServerClient
from contracts.settings import Settings


class FacesApi:
    """One server; each call has a deadline, and a refusal is a `CommandError` with its words.

    Args:
        server: The server's URL; this machine's if None.
    """

    def __init__(self, settings: Settings, server: str | None) -> None:
        self._client = ServerClient(settings, server)

    def get(self, path: str, **parameters: str | int) -> JsonObject:
        """Read a path below `/v1/faces`."""
        return self._client.json("GET", f"/v1/faces{path}", params=parameters)

    def post(self, path: str, body: JsonObject) -> JsonObject:
        return self._client.json("POST", f"/v1/faces{path}", json=body)

    def put(self, path: str, body: JsonObject) -> JsonObject:
        return self._client.json("PUT", f"/v1/faces{path}", json=body)

    def delete(self, path: str, **parameters: str) -> JsonObject:
        return self._client.json("DELETE", f"/v1/faces{path}", params=parameters)

    def send(self, path: str, parts: Sequence[FilePart], fields: dict[str, str]) -> JsonObject:
        """Send files and fields as a form."""
        plain = [(name, (None, value)) for name, value in fields.items()]
        return self._client.json("POST", f"/v1/faces{path}", files=[*plain, *parts])

    def items(self, path: str) -> list[JsonObject]:
        """All pages of a list."""
        return self._client.items(f"/v1/faces{path}")
