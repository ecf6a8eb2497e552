"""Reads answers of servers, which may be anything, into a bounded amount of memory."""

import httpx

from cli.output import CommandError

MAX_BYTES = 512 * 1024 * 1024
"""Of an answer that is kept in memory, after decompression; far more than Opsin ever sends."""


def read_whole(answer: httpx.Response, most: int = MAX_BYTES) -> bytes:
    """Read the body of a streamed answer, which then has it as `content`.

    Raises:
        CommandError: It is longer than any answer of Opsin.
    """
    parts, size = [], 0
    for part in answer.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > most:
            raise CommandError(
                f"The answer of {answer.url.host} has more than {most // 1024**2} MB, which is no "
                "answer of Opsin."
            )
    answer._content = b"".join(parts)  # as `read` does
    return answer._content
