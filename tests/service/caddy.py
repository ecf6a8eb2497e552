"""Caddy from the distribution's package, as docs/how-to/deploy-safely.md configures it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.nginx import PAGE, UPSTREAM, wait_for_port


def require_caddy() -> str:
    """The program; skips the test if there is none."""
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("Caddy is not installed; on Debian: apt-get install caddy")
    return program


@contextmanager
def caddy(folder: Path, upstream: str, port: int) -> Iterator[None]:
    """Caddy with the site of the page, on this port and without TLS."""
    program = require_caddy()
    (site,) = re.findall(r"```text\n(example\.org \{.*?)```", PAGE.read_text(), re.DOTALL)
    site = site.replace(UPSTREAM.removeprefix("http://"), upstream.removeprefix("http://"))
    config = folder / "Caddyfile"
    config.write_text(
        "{\n admin off\n auto_https off\n}\n"
        + site.replace("example.org", f"http://127.0.0.1:{port}", 1)
    )
    command = [program, "run", "--config", str(config), "--adapter", "caddyfile"]
    env = os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            wait_for_port(process, port)
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)
