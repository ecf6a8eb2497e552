"""What turning a JPEG into a network's input costs, decoder by decoder, and how far each strays.

    taskset -c 0 python -m benchmarks.decode FOLDER [--pictures 20] [--rounds 5]

FOLDER holds JPEGs; one of them is also blown up to 12 megapixels. The reference is Pillow at full
size. `opsin` is what the service does: header, limits and orientation by Pillow, pixels reduced by
TurboJPEG, the antialiased resize by Pillow again. Times are of the processor, not of the clock:
every way is one thread's work, and what else the machine does shall not count.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from models.catalog import CATALOG, Network
from models.images.decode import decode
from models.images.resize import UPRIGHT, crop_box, fit

Way = Callable[[bytes, Network], np.ndarray]
LIMIT = 50_000_000


def pillow(raw: bytes, network: Network) -> np.ndarray:
    """The reference: every pixel decoded, one antialiased resize."""
    return _fitted(Image.open(io.BytesIO(raw)).convert("RGB"), network)


def pillow_draft(raw: bytes, network: Network) -> np.ndarray:
    """Pillow's own reduced decoding."""
    image = Image.open(io.BytesIO(raw))
    factor = 2 * network.short_side / min(image.size)
    image.draft("RGB", (int(image.width * factor), int(image.height * factor)))
    return _fitted(image.convert("RGB"), network)


def opencv(raw: bytes, network: Network) -> np.ndarray:
    """OpenCV throughout, by the mean of areas: its bilinear does not antialias."""
    return _opencv(raw, network, cv2.IMREAD_COLOR_RGB)


def _opencv(raw: bytes, network: Network, flags: int) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
    height, width = network.input_size
    size = (pixels.shape[1], pixels.shape[0])
    box = crop_box(size, (width, height), network.short_side)
    left, top, right, bottom = (round(edge) for edge in box)
    part = pixels[top:bottom, left:right]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)


def opsin(raw: bytes, network: Network) -> np.ndarray:
    """What the service does."""
    return decode(raw, network=network, max_pixels=LIMIT).pixels


WAYS: dict[str, Way] = {
    "pillow": pillow,
    "pillow draft": pillow_draft,
    "opencv": opencv,
    "opsin": opsin,
}


def _fitted(image: Image.Image, network: Network) -> np.ndarray:
    height, width = network.input_size
    small = fit(
        image,
        target=(width, height),
        short_side=network.short_side,
        resize="crop",
        turn=UPRIGHT,
    )
    return np.asarray(small)


def _blown_up(raw: bytes) -> bytes:
    out = io.BytesIO()
    image = Image.open(io.BytesIO(raw)).convert("RGB")
    image.resize((4000, 3000), Image.Resampling.LANCZOS).save(out, "JPEG", quality=90)
    return out.getvalue()


def _row(
    name: str, raws: list[bytes], times: dict[str, list[float]], network: Network
) -> list[str]:
    strays = [np.abs(WAYS[name](raw, network).astype(int) - pillow(raw, network)) for raw in raws]
    ratio = statistics.median(a / b for a, b in zip(times["pillow"], times[name], strict=True))
    return [
        name,
        f"{1000 * statistics.median(times[name]):.2f}",
        f"{ratio:.2f}",
        f"{np.mean([one.mean() for one in strays]):.2f}",
        str(max(one.max() for one in strays)),
    ]


def compare(title: str, raws: list[bytes], rounds: int, network: Network) -> Table:
    """Time all ways in turn, picture by picture."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for raw in raws:
            for name, way in WAYS.items():
                began = time.thread_time()
                way(raw, network)
                times[name].append(time.thread_time() - began)
    table = Table("way", "ms", "times quicker", "mean stray", "most", title=title)
    for name in WAYS:
        table.add_row(*_row(name, raws, times, network))
    return table


def main() -> None:
    """Print a table for the pictures as they are and one for a large one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    suffixes = (".jpg", ".jpeg")
    files = sorted(p for p in arguments.folder.iterdir() if p.suffix.lower() in suffixes)
    raws = [path.read_bytes() for path in files[: arguments.pictures]]
    console, network = Console(width=100), CATALOG["squeezenet"]
    console.print(compare("as they are", raws, arguments.rounds, network))
    large = [_blown_up(raws[0])]
    console.print(compare("12 megapixels", large, 2 * arguments.rounds, network))


if __name__ == "__main__":
    main()
