"""HEIC files as an iPhone writes them: tiles of HEVC, turned by the container, with a thumbnail.

A camera's image is a grid of tiles, each of which is a frame of its own. Held upright, the phone
stores it as its sensor saw it. A thumbnail and EXIF come with it.
"""

import io
import struct
from collections.abc import Mapping
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

TILE = 128
_GRID, _FIRST_TILE, _THUMBNAIL, _EXIF = 1, 10, 2, 3
_QUARTER_TURNS = 3  # counterclockwise, for a phone that is held upright
_HIDDEN = 1


def iphone_heic(upright: Image.Image, tile: int = TILE) -> bytes:
    """An image as a phone that is held upright stores it, filled up to whole tiles."""
    stored = np.rot90(np.asarray(upright.convert("RGB")), -_QUARTER_TURNS)
    height, width, _ = stored.shape
    rows, columns = -(-height // tile), -(-width // tile)
    filled = np.pad(
        stored, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), mode="edge"
    )
    tiles = [
        _hevc(filled[y : y + tile, x : x + tile])
        for y in range(0, rows * tile, tile)
        for x in range(0, columns * tile, tile)
    ]
    small = Image.fromarray(np.ascontiguousarray(stored)).resize((tile, tile))
    thumbnail = _hevc(np.asarray(small))
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    # It says that the image is still to be turned, as that of a JPEG would; the container did it.
    exif = b"\0\0\0\6Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    tile_ids = range(_FIRST_TILE, _FIRST_TILE + len(tiles))
    items = [(_GRID, b"grid", grid), (_THUMBNAIL, b"hvc1", thumbnail[1]), (_EXIF, b"Exif", exif)]
    items += [(item, b"hvc1", data) for item, (_, data) in zip(tile_ids, tiles, strict=True)]
    references = _box(b"dimg", struct.pack(f">HH{len(tiles)}H", _GRID, len(tiles), *tile_ids))
    references += _box(b"thmb", struct.pack(">HHH", _THUMBNAIL, 1, _GRID))
    references += _box(b"cdsc", struct.pack(">HHH", _EXIF, 1, _GRID))
    properties = [
        tiles[0][0],
        _full(b"ispe", 0, struct.pack(">II", tile, tile)),
        _full(b"ispe", 0, struct.pack(">II", width, height)),
        _box(b"irot", bytes([_QUARTER_TURNS])),
        _box(b"colr", b"nclx" + struct.pack(">HHHB", 1, 13, 6, 0)),
        thumbnail[0],
    ]
    uses = {_GRID: (3, 4, 5), _THUMBNAIL: (6, 2, 4), **dict.fromkeys(tile_ids, (1, 2, 5))}
    meta = [
        _full(b"hdlr", 0, bytes(4) + b"pict" + bytes(13)),
        _full(b"pitm", 0, struct.pack(">H", _GRID)),
        _names(items),
        _full(b"iref", 0, references),
        _box(b"iprp", _box(b"ipco", b"".join(properties)) + _associations(uses)),
    ]
    return _file(meta, items)


def _file(meta: list[bytes], items: list[tuple[int, bytes, bytes]]) -> bytes:
    start = _box(b"ftyp", b"heic\0\0\0\0mif1MiHBMiHEmiafheic")

    def head(first: int) -> bytes:
        return start + _full(b"meta", 0, b"".join([*meta, _locations(items, first)]))

    # The length of the head does not depend on the positions in it.
    first = len(head(0)) + 8
    return head(first) + _box(b"mdat", b"".join(data for _, _, data in items))


def _hevc(pixels: npt.NDArray[Any]) -> tuple[bytes, bytes]:
    """The box that configures a decoder, and the frame."""
    file = io.BytesIO()
    options = {"x265-params": "log-level=none:keyint=1", "preset": "ultrafast", "crf": "18"}
    with av.open(file, "w", format="mp4") as out:
        stream: Any = out.add_stream("libx265", rate=1, options=options)
        stream.height, stream.width, _ = pixels.shape
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    data = file.getvalue()
    start = data.index(b"hvcC") - 4
    with av.open(io.BytesIO(data), "r") as container:
        (encoded,) = (bytes(packet) for packet in container.demux(video=0) if packet.size)
    return data[start : start + int.from_bytes(data[start : start + 4])], encoded


def _names(items: list[tuple[int, bytes, bytes]]) -> bytes:
    entries = b""
    for item, kind, _ in items:
        flags = _HIDDEN if item >= _FIRST_TILE else 0
        entries += _full(b"infe", 2, struct.pack(">HH4sB", item, 0, kind, 0), flags)
    return _full(b"iinf", 0, struct.pack(">H", len(items)) + entries)


def _locations(items: list[tuple[int, bytes, bytes]], first: int) -> bytes:
    entries = b""
    for item, _, data in items:
        entries += struct.pack(">HHHII", item, 0, 1, first, len(data))
        first += len(data)
    return _full(b"iloc", 0, b"\x44\0" + struct.pack(">H", len(items)) + entries)


def _associations(uses: Mapping[int, tuple[int, ...]]) -> bytes:
    entries = b""
    for item, properties in uses.items():
        entries += struct.pack(">HB", item, len(properties)) + bytes(properties)
    return _full(b"ipma", 0, struct.pack(">I", len(uses)) + entries)


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), name) + body


def _full(name: bytes, version: int, body: bytes, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags) + body)
