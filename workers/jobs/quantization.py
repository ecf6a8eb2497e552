"""The quantization job: makes the int8 version, and waits until it answers if it was promoted."""

from typing import Any

from contracts.settings import Settings
from contracts.work import Work
from models.export import quantization
from workers.jobs.serving import wait_until_served


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Run `models.export.quantization.run`; its result gets `serving`.

    Raises:
        OpsinError: The version cannot be quantized.
        WorkStoppedError: The job was stopped.
    """
    result = quantization.run(work, settings)
    if not result["promoted"]:
        return result
    serving = wait_until_served(work, settings, result["model"], result["version"])
    return result | {"serving": serving and serving.model_dump(mode="json")}
