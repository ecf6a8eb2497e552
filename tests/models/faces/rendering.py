"""Animates an image of a face by moving the points of its mesh, and writes video files.

The image is divided into the triangles of the mesh, which are drawn at the new positions of their
corners, the nearest last. Jitter and noise imitate a hand and a camera.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from contracts.faces.liveness import Action
from contracts.queue.messages import Pixels

Floats = npt.NDArray[np.float32]

# Indices of mesh points: the lids, the ring of the inner lips, and those that move with the jaw.
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
_LEVELS = 8  # steps between no movement and the full movement
_EDGE = 0.02  # of a triangle; without it, gaps are visible between triangles
TURN = np.radians(38.0)
UP = np.radians(24.0)


@dataclass(frozen=True)
class Face:
    """An image and its face mesh, (468, 3) in pixels."""

    image: Pixels
    mesh: Floats


class Puppet:
    """An animated face.

    Args:
        face: Frontal, with open eyes and closed mouth.
    """

    def __init__(self, face: Face) -> None:
        self._face = face
        height, width = face.image.shape[:2]
        still = np.concatenate([_ring(face.mesh[:, :2], 1.5), _border(width, height)])
        self._still = still[(still > -1).all(1) & (still < (width, height)).all(1)]
        self._points = np.concatenate([face.mesh[:, :2], self._still])
        self._triangles = _triangles(self._points, (width, height))
        self._grid = _coordinates(width, height)
        self._maps: dict[tuple[Action, int], Floats] = {}

    def frame(
        self, action: Action, strength: float, noise: np.random.Generator, sway: float = 0.5
    ) -> Pixels:
        """One frame: RGB, of the size of the image.

        Args:
            strength: 0 (no movement) to 1.
            noise: For the camera and the hand.
            sway: Jitter of the frame in pixels.
        """
        level = round(strength * _LEVELS)
        bends = level and action not in {"neutral", "close_eyes"}
        where = self._map(action, level) if bends else self._grid
        where = where + noise.normal(scale=sway, size=2).astype(np.float32)
        image = self._lids(level / _LEVELS) if action == "close_eyes" else self._face.image
        out = cv2.remap(image, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if action == "open_mouth":
            out = self._mouth(out, level / _LEVELS)
        grain = noise.normal(scale=2.0, size=out.shape[:2])[..., None]
        return np.clip(out + grain, 0, 255).astype(np.uint8)

    def _map(self, action: Action, level: int) -> Floats:
        """Where each pixel comes from, (height, width, 2)."""
        if (action, level) not in self._maps:
            moved, depth = self._moved(action, level / _LEVELS)
            points = np.concatenate([moved, self._still])
            depth = np.concatenate([depth, np.full(len(self._still), depth.max())])
            self._maps[action, level] = self._painted(points, depth)
        return self._maps[action, level]

    def _moved(self, action: Action, strength: float) -> tuple[Floats, Floats]:
        """The mesh during an action: (468, 2), and the depth of each point."""
        mesh = self._face.mesh
        moved, depth = mesh[:, :2].copy(), mesh[:, 2].copy()
        if action in {"turn_left", "turn_right", "look_up"}:
            # The person's own left is on the right of the image.
            angle = {"turn_left": TURN, "turn_right": -TURN, "look_up": UP}[action] * strength
            center = mesh.mean(0) + np.array([0, 0, 0.25 * np.ptp(mesh[:, 0])])  # about the neck
            x, y, z = (mesh - center).T
            along, axis = (y, 1) if action == "look_up" else (x, 0)
            sign = 1 if action == "look_up" else -1
            moved[:, axis] = center[axis] + along * np.cos(angle) + sign * z * np.sin(angle)
            depth = z * np.cos(angle) - sign * along * np.sin(angle)
        elif action == "open_mouth":
            moved[:, 1] += strength * self._gape() * self._jaw()
        return moved.astype(np.float32), depth.astype(np.float32)

    def _painted(self, points: Floats, depth: Floats) -> Floats:
        """The map for moved points, drawn triangle by triangle from far to near."""
        out = self._grid.copy()
        height, width = out.shape[:2]
        for corners in self._triangles[np.argsort(-depth[self._triangles].mean(1))]:
            to, source = points[corners], self._points[corners]
            left, top = np.maximum(np.floor(to.min(0)).astype(int), 0)
            right, bottom = np.minimum(np.ceil(to.max(0)).astype(int) + 1, (width, height))
            across, down = to[1] - to[0], to[2] - to[0]
            area = across[0] * down[1] - across[1] * down[0]
            if left >= right or top >= bottom or abs(area) < 1e-6:
                continue
            place = self._grid[top:bottom, left:right] - to[0]
            u = (place[..., 0] * down[1] - place[..., 1] * down[0]) / area
            v = (place[..., 1] * across[0] - place[..., 0] * across[1]) / area
            inside = (u >= -_EDGE) & (v >= -_EDGE) & (u + v <= 1 + _EDGE)
            where = source[0] + u[..., None] * (source[1] - source[0])
            where = where + v[..., None] * (source[2] - source[0])
            out[top:bottom, left:right][inside] = where[inside]
        return out

    def _gape(self) -> float:
        """Pixels by which the jaw drops."""
        return 0.85 * float(np.linalg.norm(self._face.mesh[78, :2] - self._face.mesh[308, :2]))

    def _jaw(self) -> Floats:
        """How much each point moves with the jaw, 0 to 1."""
        mesh = self._face.mesh
        line = float(mesh[list(_INNER_LIPS), 1].mean())
        chin = float(mesh[152, 1])
        wide = float(np.linalg.norm(mesh[78, :2] - mesh[308, :2]))
        part = np.clip((mesh[:, 1] - line) / max(1.0, 0.25 * (chin - line)), 0, 1)
        part = part * np.exp(-(((mesh[:, 0] - mesh[14, 0]) / (1.3 * wide)) ** 2))
        lips = list(_LOWER_LIP)
        part[lips] = np.exp(-(((mesh[lips, 0] - mesh[14, 0]) / (0.5 * wide)) ** 2))
        return part.astype(np.float32)

    def _lids(self, strength: float) -> Pixels:
        """The image with lowered upper lids: skin over the eye, and lashes below."""
        out = self._face.image.copy()
        size = float(np.ptp(self._face.mesh[:, 0]))
        for upper, lower in zip(_UPPER_LIDS, _LOWER_LIDS, strict=True):
            up, low = self._face.mesh[list(upper), :2], self._face.mesh[list(lower), :2]
            # The middle ends slightly below the lower lid.
            deep = np.sin(np.linspace(0, np.pi, len(up)))[:, None] * (0, 0.02 * size)
            lid = up + strength * (low + deep - up)
            opening = np.zeros(out.shape[:2], np.uint8)
            wider = up - (0, 0.012 * size)
            cv2.fillPoly(opening, [np.round(np.concatenate([wider, low[::-1]])).astype(int)], 255)
            skin = cv2.inpaint(out, cv2.dilate(opening, np.ones((3, 3))), 4, cv2.INPAINT_TELEA)
            drawn = np.zeros(out.shape[:2], np.uint8)
            cv2.fillPoly(drawn, [np.round(np.concatenate([wider, lid[::-1]])).astype(int)], 255)
            soft = cv2.GaussianBlur(drawn, (3, 3), 0.8)[..., None] / 255
            out = (out * (1 - soft) + skin * soft).astype(np.uint8)
            thick = max(1, round(0.008 * size))
            line = [np.round(lid * 8).astype(int)]
            cv2.polylines(out, line, False, (70, 45, 40), thick, cv2.LINE_AA, shift=3)
        return out

    def _mouth(self, out: Pixels, strength: float) -> Pixels:
        """Darken the inside of the open mouth."""
        ring = self._moved("open_mouth", strength)[0][list(_INNER_LIPS)]
        mask = np.zeros(out.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.round(ring).astype(np.int32)], 255)
        soft = cv2.GaussianBlur(mask, (5, 5), 1.2).astype(np.float32)[..., None] / 255
        return (out * (1 - soft) + np.array([55, 18, 20]) * soft).astype(np.uint8)


def _triangles(points: Floats, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """The Delaunay triangles of points, as indices (n, 3)."""
    plane = cv2.Subdiv2D((-1, -1, size[0] + 2, size[1] + 2))
    plane.insert([(float(x), float(y)) for x, y in points])
    corners = plane.getTriangleList().reshape(-1, 3, 2)
    apart = np.linalg.norm(corners[:, :, None] - points[None, None], axis=-1)
    found = apart.argmin(-1)
    # Triangles at the corners of the plane itself are not part of the face.
    return found[(apart.min(-1) < 0.01).all(1)]


def _coordinates(width: int, height: int) -> Floats:
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], -1)


def _border(width: int, height: int, count: int = 12) -> Floats:
    x, y = np.linspace(0, width - 1, count), np.linspace(0, height - 1, count)
    sides = [(x, 0 * x), (x, 0 * x + height - 1), (0 * y, y), (0 * y + width - 1, y)]
    return np.concatenate([np.stack(side, 1) for side in sides]).astype(np.float32)


def _ring(points: Floats, scale: float, count: int = 48) -> Floats:
    """A ring around a face, outside of which nothing moves."""
    center, reach = points.mean(0), np.ptp(points, axis=0) / 2
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return (center + scale * reach * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32)


def performance(
    puppet: Puppet, actions: Sequence[Action], *, fps: float, seed: int = 0
) -> Iterator[Pixels]:
    """The frames of an honest answer: each action in and out, with pauses before and after."""
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
    """Write frames to a file in the container of its suffix; returns its bytes."""
    first = next(frames)
    height, width = first.shape[:2]
    code = cv2.VideoWriter.fourcc(*CODECS[path.suffix[1:]])
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, (width, height))
    assert writer.isOpened()
    for frame in (first, *frames):
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path.read_bytes()
