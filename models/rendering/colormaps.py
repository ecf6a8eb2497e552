"""The well-known color maps without matplotlib.

matplotlib would add half a second and 50 MB to the start of the API for seven small tables.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Colormap = Literal["jet", "turbo", "viridis", "inferno", "magma", "plasma", "gray"]
COLORMAPS: tuple[Colormap, ...] = get_args(Colormap)
Colors = npt.NDArray[np.uint8]

LEVELS = 256

# matplotlib's tables (CC0; turbo by A. Mikhailov, Apache-2.0) at 33 even points, as RGB; values
# between them are interpolated and differ from the table by at most three of 255 levels.
_POINTS: dict[str, str] = {
    "inferno": (
        "000004 040312 0b0724 150b37 210c4a 2f0a5b 3d0965 4a0c6b 57106e 64156e 71196e "
        "7d1e6d 8a226a 972766 a32c61 b0315b bc3754 c63d4d d04545 da4e3c e35933 eb6429 "
        "f1711f f67e14 f98c0a fb9b06 fcaa0f fbba1f f9c932 f5d949 f2e865 f3f586 fcffa4"
    ),
    "magma": (
        "000004 030312 0a0822 130d34 1d1147 29115a 36106b 440f76 51127c 5d177f 6a1c81 "
        "762181 832681 902a81 9c2e7f aa337d b73779 c23b75 cf4070 db476a e55064 ee5b5e "
        "f4695c f9785d fb8761 fd9668 fea571 feb47b fec287 fed194 fde0a1 fceeb0 fcfdbf"
    ),
    "plasma": (
        "0d0887 220690 310597 3f049c 4c02a1 5901a5 6600a7 7201a8 7e03a8 8a09a5 9511a1 "
        "a01a9c aa2395 b32c8e bc3587 c43e7f cc4778 d24f71 d9586a df6263 e56b5d eb7556 "
        "f07f4f f48948 f89441 fb9f3a fdab33 feb72d fdc328 fcd025 f9dd25 f5eb27 f0f921"
    ),
    "turbo": (
        "30123b 392a73 4040a2 4456c7 466be3 4680f6 4294ff 37a8fa 28bceb 1ccdd8 18ddc2 "
        "1fe9af 32f298 4ef97d 6dfe62 8bff4b a4fc3c b7f735 cbed34 dde037 ecd13a f7c13a "
        "fdae35 fe992c fb8122 f56918 ec530f e14109 d23105 c12302 ac1701 950d01 7a0403"
    ),
    "viridis": (
        "440154 470d60 48186a 482374 472d7b 453781 424086 3e4989 3b528b 375b8d 33638d "
        "2f6b8e 2c728e 297a8e 26828e 23898e 21918c 1f978b 1f9f88 21a685 27ad81 31b57b "
        "3dbc74 4cc26c 5cc863 6ece58 81d34d 95d840 aadc32 c0df25 d5e21a eae51a fde725"
    ),
}

# matplotlib's jet: the breakpoints of red, green and blue, and their values there.
_JET: tuple[tuple[list[float], list[float]], ...] = (
    ([0, 0.35, 0.66, 0.89, 1], [0, 0, 1, 1, 0.5]),
    ([0, 0.125, 0.375, 0.64, 0.91, 1], [0, 0, 1, 1, 0, 0]),
    ([0, 0.11, 0.34, 0.65, 1], [0.5, 1, 1, 0, 0]),
)


def colors_of(name: Colormap) -> Colors:
    """The colors of a map, from the lowest value to the highest: (256, 3) uint8."""
    if name == "gray":
        return np.repeat(np.arange(LEVELS, dtype=np.uint8)[:, None], 3, axis=1)
    if name == "jet":
        return _jet()
    points = np.frombuffer(bytes.fromhex(_POINTS[name]), np.uint8).reshape(-1, 3)
    positions = np.round(np.linspace(0, LEVELS - 1, len(points)))
    levels = np.arange(LEVELS)
    channels = [np.interp(levels, positions, points[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def _jet() -> Colors:
    x = np.linspace(0, 1, LEVELS)
    jet = np.stack([np.interp(x, *points) for points in _JET], axis=1)
    colors: Colors = (jet * (LEVELS - 1)).round().astype(np.uint8)
    return colors
