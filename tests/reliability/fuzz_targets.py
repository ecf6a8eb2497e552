"""The inputs that accept untrusted bytes, and the corpora that fuzzing starts from.

A target is fed bytes and returns ``accepted``, or the code they were refused with. Any other
exception is a finding. The corpora are generated: good files of every kind, and every bomb and
malformed file that we know of.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from contracts.errors import OpsinError
from contracts.queue.messages import (
    Item,
    MalformedMessageError,
    Reply,
    pack_bundle,
    unpack_bundle,
)
from contracts.queue.shared_pixels import SharedPixelsReader
from contracts.settings import MIB
from models.catalog import CATALOG
from models.datasets.archives.limits import Limits
from models.datasets.store import DatasetStore
from models.faces.liveness.video import VideoLimits, read_frames
from models.images.decode import decode
from service.http.multipart import FieldSpec, MultipartReader
from service.protocols.oip import parse_infer
from service.protocols.tensor_spec import TensorSpec
from service.protocols.tfserving import parse_predict
from tests.images import good_images, hostile_images
from tests.models.datasets.archives.test_hostile import SMALL, TARS, ZIPS
from tests.models.datasets.packing import on_disk, tarred, tree, zipped
from tests.models.faces.rendering import CODECS, write_video
from tests.reliability.fuzz_http import HttpFuzz
from tests.reliability.fuzz_http import seeds as http_seeds

ACCEPTED = "accepted"
_SIGNATURE = TensorSpec((4, 5, 3), 3)
_MAX_PIXELS = 2_000_000
_MAX_SEED_BYTES = 200_000  # mutating a larger file is slower and finds no more
_BOUNDARY = "opsin-fuzz"
_CLIP = VideoLimits(seconds=10, memory_bytes=1024 * MIB, cpu_seconds=10, wait_seconds=20)


@dataclass(frozen=True, slots=True)
class Target:
    """One input of the service.

    Attributes:
        seeds: What mutations start from.
        feed: Feeds it one input and returns the outcome.
        bombs: Fed unchanged, once, at the beginning.
    """

    name: str
    seeds: Sequence[bytes]
    feed: Callable[[bytes], str]
    bombs: Sequence[bytes] = ()


def _image(data: bytes) -> str:
    decode(data, network=CATALOG["squeezenet"], max_pixels=_MAX_PIXELS)
    return ACCEPTED


def _archive(folder: Path, limits: Limits) -> Callable[[bytes], str]:
    """A whole upload; one that is refused must leave nothing on the disk."""
    library = DatasetStore(folder / "datasets", limits)

    def feed(data: bytes) -> str:
        upload = folder / "upload"
        upload.write_bytes(data)
        try:
            result_table = library.create("fuzz", upload)
        except OpsinError:
            left = on_disk(folder / "datasets") - {".staging"}
            if left:
                raise AssertionError(f"a refused upload left {left}") from None
            raise
        library.delete(result_table.info.id)
        return ACCEPTED

    return feed


def _video(data: bytes) -> str:
    """Decoded to the last frame, in the process that does so in production."""
    for _ in read_frames(data, _CLIP):
        pass
    return ACCEPTED


def _oip(data: bytes) -> str:
    """The first two bytes are the stated length of the JSON."""
    length, body = int.from_bytes(data[:2], "little"), data[2:]
    parse_infer(body, None if length == 0xFFFF else str(length), _SIGNATURE)
    return ACCEPTED


def _predict(data: bytes) -> str:
    parse_predict(data, _SIGNATURE, 100_000)
    return ACCEPTED


def _form(data: bytes) -> str:
    """Read in two pieces, as it may arrive."""
    fields = {"image": FieldSpec(1000, 3, skip_too_large=True)}
    form = MultipartReader(f"multipart/form-data; boundary={_BOUNDARY}", fields)
    asyncio.run(form.read(_in_two(data)))
    return ACCEPTED


async def _in_two(data: bytes) -> AsyncIterator[bytes]:
    half = len(data) // 2
    yield data[:half]
    yield data[half:]


def _message(data: bytes) -> str:
    """A message in Redis, which another release may have written."""
    refused = 0
    shared = partial(Item.unpack, read_shared=SharedPixelsReader().read)
    for read in (shared, Reply.unpack, unpack_bundle):
        try:
            read(data)
        except MalformedMessageError:
            refused += 1
    return "malformed" if refused == 3 else ACCEPTED


def _oip_seeds() -> list[bytes]:
    tensor = {"name": "image", "shape": [2, 4, 5, 3], "datatype": "UINT8"}
    raw = bytes(range(120))
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 120}}]}).encode()
    plain = json.dumps({"id": "7", "inputs": [tensor | {"data": list(raw)}]}).encode()
    outputs = [{"name": "features", "parameters": {"binary_data": True}}]
    arguments = json.dumps({"inputs": [tensor | {"data": list(raw)}], "outputs": outputs}).encode()
    return [
        len(head).to_bytes(2, "little") + head + raw,
        b"\xff\xff" + plain,
        len(plain).to_bytes(2, "little") + plain,
        b"\xff\xff" + arguments,
    ]


def _predict_seeds() -> list[bytes]:
    image = np.zeros((4, 5, 3), np.uint8).tolist()
    return [
        json.dumps({"instances": [image]}).encode(),
        json.dumps({"inputs": {"image": [image, image]}}).encode(),
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
    shared = Item(bytes(16), 1.0, 1.0, "r", np.zeros((2, 2, 3), np.uint8)).pack(b"\1" * 20)
    return [item, shared, reply, failed, pack_bundle([item, reply])]


def _videos(folder: Path) -> list[bytes]:
    """A second of noise in each container."""
    random = np.random.default_rng(8)
    frames = random.integers(0, 256, (10, 48, 64, 3), np.uint8)
    return [write_video(folder / f"noise.{kind}", iter(frames), 10.0) for kind in CODECS]


def _fake_videos() -> list[bytes]:
    """Playlists and other files that a demuxer might follow, also after the header of a video."""
    lists = [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ]
    heads = [
        b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp41",
        b"\x1aE\xdf\xa3",
        b"RIFF\xff\xff\xff\x7fAVI ",
    ]
    return [*lists, *heads, *(head + playlist for head in heads for playlist in lists)]


def _limit_size(files: Sequence[bytes]) -> list[bytes]:
    return [file for file in files if len(file) <= _MAX_SEED_BYTES]


def targets(folder: Path) -> list[Target]:
    """All targets. A new input for untrusted bytes gets an entry here.

    Args:
        folder: An empty folder for files that targets write.
    """
    hostile = [case[0] for case in hostile_images().values()]
    archives = [make() for make in (ZIPS | TARS).values()]
    valid = tree({"cat": 3, "dog": 3})
    videos = _videos(folder)
    packed = [zipped(valid), tarred(valid), tarred(valid, packed=True)]
    return [
        Target("images", _limit_size([*good_images().values(), *hostile]), _image, hostile),
        Target("archives", packed * 20 + _limit_size(archives), _archive(folder, SMALL), archives),
        Target("videos", videos, _video, _fake_videos()),
        Target("Open Inference Protocol", _oip_seeds(), _oip),
        Target("TensorFlow Serving", _predict_seeds(), _predict),
        Target("forms", _form_seeds(), _form),
        Target("messages in Redis", _message_seeds(), _message),
        Target("HTTP", http_seeds(), HttpFuzz().feed, http_seeds()),
    ]
