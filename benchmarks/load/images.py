"""The JPEG files that are sent to every server: photos of 500 pixels.

They are the scikit-image samples that Opsin downloads, cropped in several ways so that a cache of
responses is of little use.
"""

from pathlib import Path

from PIL import Image

_LONG_SIDE = 500
_QUALITY = 90
_ASPECTS = (4 / 3, 3 / 4, 1.0)


class NoImagesError(RuntimeError):
    """There are no sample images."""


def write_images(samples: Path, folder: Path) -> list[Path]:
    """Write three JPEG files of each sample.

    Args:
        samples: The sample folder of `opsin weights pull`, with PNG files.
        folder: Target folder.

    Raises:
        NoImagesError: There are no samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file in sorted(samples.glob("*.png")):
        with Image.open(file) as image:
            for number, aspect in enumerate(_ASPECTS):
                target = folder / f"{file.stem}-{number}.jpg"
                _crop(image.convert("RGB"), aspect).save(target, quality=_QUALITY)
                written.append(target)
    if not written:
        raise NoImagesError("There are no sample images; run `opsin weights pull` first.")
    return written


def _crop(image: Image.Image, aspect: float) -> Image.Image:
    width, height = image.size
    if width / height > aspect:
        width = round(height * aspect)
    else:
        height = round(width / aspect)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    scale = _LONG_SIDE / max(width, height)
    box = (left, top, left + width, top + height)
    return image.resize((round(width * scale), round(height * scale)), box=box)
