"""The key of a request, sent only to who may have it.

OPSIN_API_KEY and `--key` go to the server that the user names. The command line's own key comes
from a file by itself, so the service has to prove first that it knows it: while the service is
down, any program of this machine may listen on its port.
"""

import hashlib
import hmac

import httpx

from cli.settings import key_headers
from contracts.key_proof import CHALLENGE_HEADER, PROOF_HEADER, KeyChallenge
from contracts.settings import Settings


def proven_headers(client: httpx.Client, settings: Settings, url: str) -> dict[str, str]:
    """The header that authenticates the next request of the client.

    Args:
        client: Sends the challenge too: over the same connection, as long as the server keeps it.
        url: The server's.

    Returns:
        Empty if there is no key, or if the server does not prove that it knows the key.

    Raises:
        httpx.HTTPError: The server does not answer.
    """
    headers = key_headers(settings, url)
    if not headers or settings.api_key is not None:
        return headers
    return headers if _knows(client, url, headers["Authorization"][7:], settings.port) else {}


def _knows(client: httpx.Client, url: str, key: str, port: int) -> bool:
    challenge = KeyChallenge.new(key)
    if challenge is None:
        return False
    answer = client.get(f"{url}/healthz", headers={CHALLENGE_HEADER: str(challenge)})
    expected = challenge.proof(hashlib.sha256(key.encode()).digest(), port)
    return hmac.compare_digest(answer.headers.get(PROOF_HEADER, "").encode(), expected.encode())
