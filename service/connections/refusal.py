"""The response to what never becomes a request that the application could respond to."""

import json
from http import HTTPStatus

from contracts.errors import CODES

_HEADERS = b"content-type: application/problem+json\r\nconnection: close\r\n"


def refusal(status: int, detail: str, request_id: str) -> bytes:
    """A whole response, after which the connection is closed.

    Args:
        status: 4xx, or 503.
        detail: For the client's developer.
        request_id: 32 hexadecimal digits.
    """
    code = "bad_request" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "dependency_unavailable"
    problem = {
        "type": f"urn:opsin:problem:{code}",
        "title": CODES[code].title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    body = json.dumps(problem).encode()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nx-request-id: {request_id}\r\n"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        head += "retry-after: 1\r\n"
    return head.encode() + _HEADERS + b"content-length: %d\r\n\r\n" % len(body) + body
