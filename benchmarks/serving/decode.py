"""CPU time of turning a JPEG into a network's input, by decoder, and the deviation of each.

    taskset -c 0 python -m benchmarks.serving.decode FOLDER [--images 20] [--rounds 5]

FOLDER holds JPEGs; one of them is also enlarged to 12 megapixels. The reference is Pillow at full
size. `opsin` is what the service does: header, limits and orientation with Pillow, reduced decoding
with TurboJPEG, antialiased resizing with Pillow. Times are CPU times of one thread, so that other
load on the machine does not count.
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
from models.images.resize import UPRIGHT, fit, visible_box

Decoder = Callable[[bytes, Network], np.ndarray]
LIMIT = 50_000_000


def pillow(raw: bytes, network: Network) -> np.ndarray:
    """The reference: full decoding, one antialiased resize."""
    return _fitted(Image.open(io.BytesIO(raw)).convert("RGB"), network)


def pillow_draft(raw: bytes, network: Network) -> np.ndarray:
    """Pillow's own reduced decoding."""
    image = Image.open(io.BytesIO(raw))
    factor = 2 * network.short_side / min(image.size)
    image.draft("RGB", (int(image.width * factor), int(image.height * factor)))
    return _fitted(image.convert("RGB"), network)


def opencv(raw: bytes, network: Network) -> np.ndarray:
    """OpenCV only, with area interpolation: its bilinear mode does not antialias."""
    return _opencv(raw, network, cv2.IMREAD_COLOR_RGB)


def _opencv(raw: bytes, network: Network, flags: int) -> np.ndarray:
    pixels: np.ndarray = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)  # type: ignore[assignment]
    height, width = network.input_size
    size = (pixels.shape[1], pixels.shape[0])
    box = visible_box(size, network, None)
    left, top, right, bottom = (round(edge) for edge in box)
    part = pixels[top:bottom, left:right]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA))


def opsin(raw: bytes, network: Network) -> np.ndarray:
    """What the service does."""
    return decode(raw, network=network, max_pixels=LIMIT).pixels


DECODERS: dict[str, Decoder] = {
    "pillow": pillow,
    "pillow draft": pillow_draft,
    "opencv": opencv,
    "opsin": opsin,
}


def _fitted(image: Image.Image, network: Network) -> np.ndarray:
    return np.asarray(fit(image, network=network, resize=None, orientation=UPRIGHT))


def _enlarged(raw: bytes) -> bytes:
    out = io.BytesIO()
    image = Image.open(io.BytesIO(raw)).convert("RGB")
    image.resize((4000, 3000), Image.Resampling.LANCZOS).save(out, "JPEG", quality=90)
    return out.getvalue()


def _row(
    name: str, raws: list[bytes], times: dict[str, list[float]], network: Network
) -> list[str]:
    deviations = [
        np.abs(DECODERS[name](raw, network).astype(int) - pillow(raw, network)) for raw in raws
    ]
    ratio = statistics.median(a / b for a, b in zip(times["pillow"], times[name], strict=True))
    return [
        name,
        f"{1000 * statistics.median(times[name]):.2f}",
        f"{ratio:.2f}",
        f"{np.mean([deviation.mean() for deviation in deviations]):.2f}",
        str(max(deviation.max() for deviation in deviations)),
    ]


def compare(title: str, raws: list[bytes], rounds: int, network: Network) -> Table:
    """Time all decoders in turn, image by image."""
    times: dict[str, list[float]] = {name: [] for name in DECODERS}
    for _ in range(rounds):
        for raw in raws:
            for name, decoder in DECODERS.items():
                began = time.thread_time()
                decoder(raw, network)
                times[name].append(time.thread_time() - began)
    table = Table("decoder", "ms", "speedup", "mean deviation", "largest", title=title)
    for name in DECODERS:
        table.add_row(*_row(name, raws, times, network))
    return table


def main() -> None:
    """Print a table for the original images and one for a large image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    suffixes = (".jpg", ".jpeg")
    files = sorted(p for p in arguments.folder.iterdir() if p.suffix.lower() in suffixes)
    raws = [path.read_bytes() for path in files[: arguments.images]]
    console, network = Console(width=100), CATALOG["squeezenet"]
    console.print(compare("original size", raws, arguments.rounds, network))
    large = [_enlarged(raws[0])]
    console.print(compare("12 megapixels", large, 2 * arguments.rounds, network))


if __name__ == "__main__":
    main()
