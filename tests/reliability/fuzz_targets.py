"""What strangers can reach with bytes of their own, and the corpora that fuzzing begins with.

A target takes bytes and says what became of them: ``taken``, or the code they were refused with.
Anything else it raises is a finding. The corpora are made by code: good files of every kind, and
every bomb, lie and trap that we know of.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contracts.errors import OpsinError
from contracts.queue.messages import (
    Item,
    MalformedMessageError,
    Reply,
    bundled,
    unbundled,
)
from contracts.settings import MIB
from models.catalog import CATALOG
from models.datasets.archives.limits import Limits
from models.datasets.library import Library
from models.faces.liveness.video import VideoLimits, read_frames
from models.images.decode import decode
from service.http.multipart import ImageForm
from service.protocols.oip import read_infer
from service.protocols.signature import Signature
from service.protocols.tfserving import read_predict
from tests.models.datasets.archives.test_hostile import SMALL, TARS, ZIPS
from tests.models.datasets.packing import on_disk, tarred, tree, zipped
from tests.models.faces.rendering import CODECS, write_video
from tests.pictures import good_pictures, hostile_pictures

TAKEN = "taken"
_SIGNATURE = Signature((4, 5, 3), 3)
_MOST_PIXELS = 2_000_000
_MOST_SEED = 200_000  # a mutation of more is as good as one of less, and slower
_BOUNDARY = "opsin-fuzz"
_CLIP = VideoLimits(seconds=10, memory_bytes=1024 * MIB, cpu_seconds=10, wait_seconds=20)


@dataclass(frozen=True, slots=True)
class Target:
    """One gate.

    Attributes:
        name: What the table calls it.
        seeds: What inputs are made of.
        feed: Gives it one input, and says what became of it.
        bombs: Fed as they are, once, before all else.
    """

    name: str
    seeds: Sequence[bytes]
    feed: Callable[[bytes], str]
    bombs: Sequence[bytes] = ()


def _image(data: bytes) -> str:
    decode(data, network=CATALOG["squeezenet"], max_pixels=_MOST_PIXELS)
    return TAKEN


def _archive(folder: Path, limits: Limits) -> Callable[[bytes], str]:
    """An upload taken in whole; whatever is refused must leave nothing on the disk."""
    library = Library(folder / "datasets", limits)

    def feed(data: bytes) -> str:
        upload = folder / "upload"
        upload.write_bytes(data)
        try:
            made = library.create("fuzz", upload)
        except OpsinError:
            left = on_disk(folder / "datasets") - {".staging"}
            if left:
                raise AssertionError(f"it left {left}") from None
            raise
        library.delete(made.info.id)
        return TAKEN

    return feed


def _video(data: bytes) -> str:
    """To the last frame, in the process that decodes them."""
    for _ in read_frames(data, _CLIP):
        pass
    return TAKEN


def _oip(data: bytes) -> str:
    """The first two bytes choose where the JSON is said to end."""
    length, body = int.from_bytes(data[:2], "little"), data[2:]
    read_infer(body, None if length == 0xFFFF else str(length), _SIGNATURE)
    return TAKEN


def _predict(data: bytes) -> str:
    read_predict(data, _SIGNATURE, 100_000)
    return TAKEN


def _form(data: bytes) -> str:
    """Fed in two pieces, as it may arrive."""
    form = ImageForm(f"multipart/form-data; boundary={_BOUNDARY}", max_parts=3, max_part_bytes=1000)
    asyncio.run(form.read(_in_two(data)))
    return TAKEN


async def _in_two(data: bytes) -> AsyncIterator[bytes]:
    half = len(data) // 2
    yield data[:half]
    yield data[half:]


def _message(data: bytes) -> str:
    """What a worker or an API process of another release may have put into Redis."""
    refused = 0
    for read in (Item.unpack, Reply.unpack, unbundled):
        try:
            read(data)
        except MalformedMessageError:
            refused += 1
    return "malformed" if refused == 3 else TAKEN


def _oip_seeds() -> list[bytes]:
    tensor = {"name": "image", "shape": [2, 4, 5, 3], "datatype": "UINT8"}
    raw = bytes(range(120))
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 120}}]}).encode()
    plain = json.dumps({"id": "7", "inputs": [tensor | {"data": list(raw)}]}).encode()
    outputs = [{"name": "features", "parameters": {"binary_data": True}}]
    asked = json.dumps({"inputs": [tensor | {"data": list(raw)}], "outputs": outputs}).encode()
    return [
        len(head).to_bytes(2, "little") + head + raw,
        b"\xff\xff" + plain,
        len(plain).to_bytes(2, "little") + plain,
        b"\xff\xff" + asked,
    ]


def _predict_seeds() -> list[bytes]:
    picture = np.zeros((4, 5, 3), np.uint8).tolist()
    return [
        json.dumps({"instances": [picture]}).encode(),
        json.dumps({"inputs": {"image": [picture, picture]}}).encode(),
        json.dumps({"instances": [{"b64": "/9j/4AAQ"}], "signature_name": "features"}).encode(),
    ]


def _form_seeds() -> list[bytes]:
    part = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode()
    end = f"\r\n--{_BOUNDARY}--\r\n".encode()
    return [part + b"1234" + end, part + b"12\r\n" + part + b"34" + end]


def _message_seeds() -> list[bytes]:
    item = Item(bytes(16), 1.0, 1.0, "replies:1", np.zeros((2, 2, 3), np.uint8), note=b"{}").pack()
    vector = np.ones(4, np.float32)
    reply = Reply(bytes(16), 1, 1, 0.0, 0.0, vector=vector, note=b"{}").pack()
    failed = Reply(bytes(16), 1, 1, 0.0, 0.0, error=("internal_error", "no")).pack()
    return [item, reply, failed, bundled([item, reply])]


def _videos(folder: Path) -> list[bytes]:
    """A second of noise in each container."""
    random = np.random.default_rng(8)
    frames = random.integers(0, 256, (10, 48, 64, 3), np.uint8)
    return [write_video(folder / f"noise.{kind}", iter(frames), 10.0) for kind in CODECS]


def _false_videos() -> list[bytes]:
    """Playlists and other things that a demuxer might follow, under the heads of videos."""
    lists = [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ]
    heads = [
        b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp41",
        b"\x1aE\xdf\xa3",
        b"RIFF\xff\xff\xff\x7fAVI ",
    ]
    return [*lists, *heads, *(head + one for head in heads for one in lists)]


def _short(files: Sequence[bytes]) -> list[bytes]:
    return [one for one in files if len(one) <= _MOST_SEED]


def targets(folder: Path) -> list[Target]:
    """All of them. A new gate for bytes of strangers gets a row here.

    Args:
        folder: Empty, for what a target writes.
    """
    hostile = [case[0] for case in hostile_pictures().values()]
    archives = [make() for make in (ZIPS | TARS).values()]
    honest = tree({"cat": 3, "dog": 3})
    videos = _videos(folder)
    packed = [zipped(honest), tarred(honest), tarred(honest, packed=True)]
    return [
        Target("pictures", _short([*good_pictures().values(), *hostile]), _image, hostile),
        Target("archives", packed * 20 + _short(archives), _archive(folder, SMALL), archives),
        Target("videos", videos, _video, _false_videos()),
        Target("Open Inference Protocol", _oip_seeds(), _oip),
        Target("TensorFlow Serving", _predict_seeds(), _predict),
        Target("forms", _form_seeds(), _form),
        Target("messages in Redis", _message_seeds(), _message),
    ]
