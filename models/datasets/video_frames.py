"""Takes images for a dataset from a video, as the classic tutorials on faces do.

Each image is a frame, the face in it, or a fixed part of it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import cv2

from contracts.errors import InvalidVideo
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from contracts.training.datasets import VideoFrames, frame_name
from models.datasets.addition import NewImage
from models.faces.detection.finder import FaceFinder
from models.faces.liveness.video import VideoLimits, read_frames

_LONG_SIDE = 1280  # of whole frames and of those that are searched for a face
_ANY_SIDE = 65500  # of a JPEG; a part is named in the pixels of the video, which is not reduced
_FACE_MARGIN = 0.15  # of the face's box, on each side
_JPEG_QUALITY = 95
_SMALLEST_SIDE = 8


@dataclass(slots=True)
class FrameCounts:
    """What became of the frames of a video.

    Attributes:
        read: Frames that were looked at, at the rate that was asked for.
        left_out: Number of frames by reason.
    """

    read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def take_images(
    video: bytes,
    frames: VideoFrames,
    settings: Settings,
    finder: FaceFinder | None,
    *,
    check: Callable[[], None],
    counts: FrameCounts,
) -> Iterator[NewImage]:
    """The images of a video, in its order; at most `frames.max_frames`.

    Args:
        finder: Needed for the region `face`.
        check: Called for each frame; may raise.
        counts: Is filled in.

    Raises:
        InvalidVideo: It cannot be read, or the part is not in its picture.
    """
    box = part_of(frames.region)
    side = _LONG_SIDE if box is None else _ANY_SIDE
    limits = replace(VideoLimits.of(settings), fps=frames.rate, long_side=side)
    taken = 0
    with closing(read_frames(video, limits, check)) as decoded:
        for frame in decoded:
            check()
            counts.read += 1
            if box is not None:
                pixels: Pixels | None = _cut(frame.pixels, *box)
                if pixels is None:
                    height, width = frame.pixels.shape[:2]
                    raise InvalidVideo(
                        f"The region is not within the video, which has {width} x {height} pixels."
                    )
            elif frames.region == "face" and finder is not None:
                pixels = _face(frame.pixels, finder, counts)
            else:
                pixels = frame.pixels
            if pixels is not None:
                yield NewImage(frame_name(frames.name, counts.read), _jpeg(pixels))
                taken += 1
                if taken >= frames.max_frames:
                    return


def part_of(region: str) -> tuple[int, int, int, int] | None:
    """Left, top, width and height of a region; None for `whole` and `face`."""
    if not re.fullmatch(r"\d{1,5}(,\d{1,5}){3}", region):
        return None
    x, y, width, height = map(int, region.split(","))
    return x, y, width, height


def _face(pixels: Pixels, finder: FaceFinder, counts: FrameCounts) -> Pixels | None:
    found = finder.find(pixels, 2)
    if not found.faces or found.total > 1:
        counts.left_out["many_faces" if found.faces else "no_face"] += 1
        return None
    box = found.faces[0].face.box
    across, down = _FACE_MARGIN * box.width, _FACE_MARGIN * box.height
    left, top = max(0.0, box.x - across), max(0.0, box.y - down)
    right, bottom = box.x + box.width + across, box.y + box.height + down
    cut = _cut(pixels, int(left), int(top), int(right - left), int(bottom - top), inside=False)
    if cut is None:
        counts.left_out["off_frame"] += 1
    return cut


def _cut(
    pixels: Pixels, left: int, top: int, width: int, height: int, *, inside: bool = True
) -> Pixels | None:
    """A part of a frame; None if it is too small, or not within the frame though it has to be."""
    rows, columns = pixels.shape[:2]
    if inside and (left + width > columns or top + height > rows):
        return None
    part = pixels[top : top + height, left : left + width]
    return part if min(part.shape[:2]) >= _SMALLEST_SIDE else None


def _jpeg(pixels: Pixels) -> bytes:
    succeeded, data = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not succeeded:
        raise RuntimeError("the frame cannot be encoded as JPEG")
    return bytes(data)
