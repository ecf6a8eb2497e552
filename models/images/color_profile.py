"""Converts colors from an ICC profile to sRGB, which the networks have learned from.

Phones record in Display P3 and cameras in Adobe RGB: the same numbers mean stronger colors there.
Most files say sRGB, and cost nothing here: a transform that changes no color is recognized once and
remembered as None.
"""

import hashlib
import io
import threading
from collections import OrderedDict
from typing import Final

import numpy as np
from PIL import Image, ImageCms

_MAX_PROFILE_BYTES = 4 << 20  # the largest real ones, for printing, have 3 MB
_HEADER_BYTES = 128
_REMEMBERED = 32
_SPACES: Final = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_UNNOTICEABLE = 2  # of 255 levels
# A chain of any number of matrices and curves, each of which costs time for every color: a profile
# of 4 MiB, which a PNG stores in 10 kB, would take an hour. Only film and test profiles have one.
_CHAIN = b"mpet"
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION  # as browsers and editors do


class _Transforms:
    """The transforms of the last profiles, by digest and mode. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[bytes, str], ImageCms.ImageCmsTransform | None] = (
            OrderedDict()
        )

    def get(self, profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
        """The transform to sRGB; None if there is none or none is needed."""
        key = hashlib.sha256(profile).digest(), mode
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        transform = _transform(profile, mode)
        with self._lock:
            self._known[key] = transform
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return transform


_transforms = _Transforms()


def is_described(image: Image.Image) -> bool:
    """Whether the file says in a profile what the colors of the image look like."""
    return _space_of(image.info.get("icc_profile")) == _SPACES.get(image.mode, "")


def _space_of(profile: object) -> str | None:
    """The color space of a profile; None if it is missing, damaged or takes too long."""
    if not isinstance(profile, bytes) or not _HEADER_BYTES < len(profile) <= _MAX_PROFILE_BYTES:
        return None
    if _CHAIN in profile:
        return None
    return profile[16:20].decode("latin-1").rstrip()


def to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Convert an image, unless its profile is missing, damaged or that of another color space.

    Args:
        image: ``L``, ``RGB`` or ``CMYK``, or with an alpha channel. Others are returned unchanged.
        profile: The ICC profile as found in the file.
    """
    mode = {"RGBA": "RGB", "LA": "L"}.get(image.mode, image.mode)
    if not isinstance(profile, bytes) or _space_of(profile) != _SPACES.get(mode, ""):
        return image
    transform = _transforms.get(profile, mode)
    if transform is None:
        return image
    converted = transform.apply(image if image.mode == mode else image.convert(mode))
    del converted.info["icc_profile"]
    if image.mode != mode:
        converted.putalpha(image.getchannel("A"))
    return converted


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            _FLAGS,
        )
    except (OSError, ImageCms.PyCMSError):  # a damaged profile must not cost a good image
        return None
    return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.linspace(0, 255, 6).round().astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    before = Image.fromarray(colors).convert(mode)
    after = np.asarray(transform.apply(before)).astype(int)
    return bool(np.abs(after - np.asarray(before.convert("RGB"))).max() <= _UNNOTICEABLE)
