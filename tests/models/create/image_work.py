"""The work of a job that makes an image, in memory, which can be stopped at any check."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from contracts.jobs import Progress
from contracts.work import WorkStoppedError


@dataclass
class ImageJobWork:
    """A `models.create.run.ImageWork` that stops at the check with that number."""

    request: dict[str, Any]
    folder: Path
    stop_at: int | None = None
    job_id: str = "job_1"
    attempt: int = 1
    checks: int = 0
    seen: list[Progress] = field(default_factory=list)
    rows: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    previews: int = 0

    def progress(self, progress: Progress) -> None:
        self.seen.append(progress)

    def metrics(self, row: dict[str, Any]) -> None:
        self.rows[row["epoch"], row["phase"]] = row

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        assert media_type == "image/png"
        self.previews += name == "preview.png"
        self.files[name] = content

    def last_artifact(self, name: str, media_type: str, content: bytes) -> None:
        self.artifact(name, media_type, content)

    def check(self) -> None:
        self.checks += 1
        if self.stop_at is not None and self.checks >= self.stop_at:
            raise WorkStoppedError

    def image(self, name: str = "result.png") -> npt.NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(self.files[name])))

    def settings(self, name: str = "result.png") -> dict[str, Any]:
        """What the PNG says of itself."""
        text = Image.open(io.BytesIO(self.files[name])).text  # type: ignore[attr-defined]
        settings: dict[str, Any] = json.loads(text["Opsin settings"])
        return settings


def photo(width: int = 60, height: int = 40, seed: int = 1) -> Image.Image:
    """A smooth image of a few colors."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
