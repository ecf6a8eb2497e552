"""The OpenAPI document with the default settings; run as a program, it prints it."""

import json
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

from contracts.settings import Settings
from service.app import create_app
from service.dependencies import Services


def document() -> dict[str, Any]:
    """What `/openapi.json` returns."""
    return create_app(Settings(_env_file=None), _no_services).openapi()


def _no_services(settings: Settings) -> AbstractAsyncContextManager[Services]:
    raise AssertionError("the application is not started")


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1, ensure_ascii=False)
