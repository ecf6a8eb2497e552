"""The JPEG bodies that every contestant is sent: photos of 500 pixels, as a telephone shares them.

They are the scikit-image samples that Opsin fetches for its first request, cut in several ways
so that no server can live on a cache.
"""

from pathlib import Path

from PIL import Image

_LONG_SIDE = 500
_QUALITY = 90
_ASPECTS = (4 / 3, 3 / 4, 1.0)


class NoPicturesError(RuntimeError):
    """There are no sample photos to send."""


def write_pictures(samples: Path, folder: Path) -> list[Path]:
    """Write the bodies as JPEG files, three of each sample.

    Args:
        samples: The folder of `opsin weights pull`, with its PNG files.
        folder: Where to.

    Raises:
        NoPicturesError: There are no samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file in sorted(samples.glob("*.png")):
        with Image.open(file) as image:
            for number, aspect in enumerate(_ASPECTS):
                target = folder / f"{file.stem}-{number}.jpg"
                _cut(image.convert("RGB"), aspect).save(target, quality=_QUALITY)
                written.append(target)
    if not written:
        raise NoPicturesError("No sample photos are here; run `opsin weights pull` first.")
    return written


def _cut(image: Image.Image, aspect: float) -> Image.Image:
    width, height = image.size
    if width / height > aspect:
        width = round(height * aspect)
    else:
        height = round(width / aspect)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    scale = _LONG_SIDE / max(width, height)
    box = (left, top, left + width, top + height)
    return image.resize((round(width * scale), round(height * scale)), box=box)
