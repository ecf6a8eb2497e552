"""A clip made of one picture: the face's own mesh is turned and moved, and the pixels with it.

Each action is a field of displacements, worked out once and applied in part or in whole, so that a
frame costs one `cv2.remap`. A tremble and some noise are what a hand and a camera add.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from contracts.liveness import Action
from contracts.messages import Pixels

Floats = npt.NDArray[np.float32]

# Of the mesh's 468 points: the lids, the inner lips in a ring, and what the jaw carries.
_UPPER_LIDS = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133),
    (362, 398, 384, 385, 386, 387, 388, 466, 263),
)
_LOWER_LIDS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133),
    (362, 382, 381, 380, 374, 373, 390, 249, 263),
)
_INNER_LIPS = (
    78,
    191,
    80,
    81,
    82,
    13,
    312,
    311,
    310,
    415,
    308,
    324,
    318,
    402,
    317,
    14,
    87,
    178,
    88,
    95,
)
_LOWER_LIP = (95, 88, 178, 87, 14, 317, 402, 318, 324)
_FIELD_STEP = 2  # pixels between the places at which a field is worked out
TURN = np.radians(38.0)
UP = np.radians(24.0)


@dataclass(frozen=True)
class Face:
    """A picture with the mesh that was found in it: (468, 3), pixels."""

    picture: Pixels
    mesh: Floats


class Puppet:
    """A face that does what it is told.

    Args:
        face: A frontal one, eyes open and mouth shut.
    """

    def __init__(self, face: Face) -> None:
        self._face = face
        height, width = face.picture.shape[:2]
        self._grid = np.stack(
            np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), -1
        )
        self._fields: dict[Action, Floats] = {}

    def frame(
        self, action: Action, strength: float, noise: np.random.Generator, sway: float = 0.5
    ) -> Pixels:
        """One frame: RGB, as large as the picture.

        Args:
            action: What to do.
            strength: 0 not at all to 1.
            noise: Of the camera and the hand.
            sway: Pixels by which the picture trembles.
        """
        where = self._grid + noise.normal(scale=sway, size=2).astype(np.float32)
        picture = self._face.picture
        if action != "neutral" and strength > 0:
            where = where + strength * self._field(action)
        out = cv2.remap(picture, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if action == "open_mouth":
            out = self._mouth(out, strength)
        grain = noise.normal(scale=2.0, size=out.shape[:2])[..., None]
        return np.clip(out + grain, 0, 255).astype(np.uint8)

    def _field(self, action: Action) -> Floats:
        """Where each pixel comes from, relative to itself, when the action is done wholly."""
        if action not in self._fields:
            self._fields[action] = self._spread(self._moved(action))
        return self._fields[action]

    def _moved(self, action: Action) -> Floats:
        """The mesh when the action is done wholly, (468, 2)."""
        mesh = self._face.mesh
        moved = mesh[:, :2].copy()
        if action in {"turn_left", "turn_right", "look_up"}:
            # The mesh's own left is at the picture's right.
            angle = {"turn_left": TURN, "turn_right": -TURN, "look_up": UP}[action]
            centre = mesh.mean(0)
            x, y, z = (mesh - centre).T
            if action == "look_up":
                moved[:, 1] = centre[1] + y * np.cos(angle) + z * np.sin(angle)
            else:
                moved[:, 0] = centre[0] + x * np.cos(angle) - z * np.sin(angle)
        elif action == "close_eyes":
            for upper, lower in zip(_UPPER_LIDS, _LOWER_LIDS, strict=True):
                up, low = list(upper), list(lower)
                moved[up] += 0.93 * (mesh[low, :2] - mesh[up, :2])
        elif action == "open_mouth":
            moved[:, 1] += self._gape() * self._jaw()
        return moved

    def _gape(self) -> float:
        """Pixels by which the jaw drops."""
        return 0.85 * float(np.linalg.norm(self._face.mesh[78, :2] - self._face.mesh[308, :2]))

    def _jaw(self) -> Floats:
        """How far each point goes with the jaw, 0 to 1."""
        mesh = self._face.mesh
        line = float(mesh[list(_INNER_LIPS), 1].mean())
        chin = float(mesh[152, 1])
        wide = float(np.linalg.norm(mesh[78, :2] - mesh[308, :2]))
        part = np.clip((mesh[:, 1] - line) / max(1.0, 0.25 * (chin - line)), 0, 1)
        part = part * np.exp(-(((mesh[:, 0] - mesh[14, 0]) / (1.1 * wide)) ** 2))
        part[list(_LOWER_LIP)] = np.exp(
            -(((mesh[list(_LOWER_LIP), 0] - mesh[14, 0]) / (0.5 * wide)) ** 2)
        )
        return part.astype(np.float32)

    def _mouth(self, out: Pixels, strength: float) -> Pixels:
        """What is behind open lips is dark."""
        ring = (1 - strength) * self._face.mesh[:, :2] + strength * self._moved("open_mouth")
        mask = np.zeros(out.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.round(ring[list(_INNER_LIPS)]).astype(np.int32)], 255)
        soft = cv2.GaussianBlur(mask, (5, 5), 1.2).astype(np.float32)[..., None] / 255
        return (out * (1 - soft) + np.array([55, 18, 20]) * soft).astype(np.uint8)

    def _spread(self, moved: Floats) -> Floats:
        """Displacements at the moved mesh, spread over the picture; its edges stay."""
        back = self._face.mesh[:, :2] - moved
        height, width = self._face.picture.shape[:2]
        size = float(np.ptp(self._face.mesh[:, 0]))
        edge = _border(width, height)
        around = _ring(self._face.mesh[:, :2], 1.45)
        at = np.concatenate([moved, around, edge]).astype(np.float32)
        shift = np.concatenate([back, np.zeros((len(around) + len(edge), 2), np.float32)])
        grid = self._grid[::_FIELD_STEP, ::_FIELD_STEP].reshape(-1, 2)
        field = np.concatenate(
            [_interpolated(part, at, shift, size) for part in np.array_split(grid, 64)]
        )
        coarse = field.reshape(*self._grid[::_FIELD_STEP, ::_FIELD_STEP].shape)
        full: Floats = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        return full


def _interpolated(places: Floats, at: Floats, shift: Floats, size: float) -> Floats:
    """Inverse distance weighting of the nearest few, D. Shepard (1968)."""
    squared = ((places[:, None] - at[None]) ** 2).sum(-1)
    near = np.argpartition(squared, 12, axis=1)[:, :12]
    weights = 1 / (np.take_along_axis(squared, near, 1) + (0.01 * size) ** 2) ** 1.5
    weights /= weights.sum(1, keepdims=True)
    return (weights[..., None] * shift[near]).sum(1).astype(np.float32)


def _border(width: int, height: int, count: int = 12) -> Floats:
    x, y = np.linspace(0, width - 1, count), np.linspace(0, height - 1, count)
    sides = [(x, 0 * x), (x, 0 * x + height - 1), (0 * y, y), (0 * y + width - 1, y)]
    return np.concatenate([np.stack(side, 1) for side in sides]).astype(np.float32)


def _ring(points: Floats, scale: float, count: int = 48) -> Floats:
    """A ring around a face: what lies outside stays where it is."""
    centre, reach = points.mean(0), np.ptp(points, axis=0) / 2
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return (centre + scale * reach * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32)


def performance(
    puppet: Puppet, actions: Sequence[Action], *, fps: float, seed: int = 0
) -> Iterator[Pixels]:
    """The frames of an honest answer: a pause, then each action in and out, and a pause after."""
    noise = np.random.default_rng(seed)

    def frames(action: Action, seconds: float, start: float, end: float) -> Iterator[Pixels]:
        for part in np.linspace(start, end, max(1, round(seconds * fps)), endpoint=False):
            yield puppet.frame(action, float(part), noise)

    yield from frames("neutral", 0.8, 0, 0)
    for action in actions:
        yield from frames(action, 0.3, 0, 1)
        yield from frames(action, 0.6, 1, 1)
        yield from frames(action, 0.3, 1, 0)
        yield from frames("neutral", 0.5, 0, 0)


CODECS = {"mp4": "mp4v", "mov": "mp4v", "avi": "MJPG", "webm": "VP80"}


def write_video(path: Path, frames: Iterator[Pixels], fps: float) -> bytes:
    """Frames as a file, in the container that its name says; returns its bytes."""
    first = next(frames)
    height, width = first.shape[:2]
    code = cv2.VideoWriter.fourcc(*CODECS[path.suffix[1:]])
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, (width, height))
    assert writer.isOpened()
    for frame in (first, *frames):
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path.read_bytes()
