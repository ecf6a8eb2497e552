"""Detects the container format of a video from its first bytes, never from its name or type.

The decoder then uses only the parser for this format. None of FFmpeg's three hundred others ever
reads the file, such as those for playlists (HLS, concat), which open other files or URLs.
"""

from dataclasses import dataclass

from contracts.errors import InvalidVideo

ACCEPTED = "MP4, MOV, WebM or AVI"

# Brands of still images and audio in the MP4 family.
_NO_VIDEO = {b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"M4A ", b"M4B ", b"jp2 "}
# Older QuickTime files begin with one of these instead of `ftyp`.
_QUICKTIME = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_EBML = b"\x1aE\xdf\xa3"
_HEAD_BYTES = 4096  # within which a Matroska file names its document type


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """An accepted container format.

    Attributes:
        demuxer: FFmpeg's name of its parser.
    """

    name: str
    demuxer: str


MP4 = VideoFormat("mp4", "mov")
MOV = VideoFormat("mov", "mov")
WEBM = VideoFormat("webm", "matroska")
AVI = VideoFormat("avi", "avi")


def detect_video_format(data: bytes | memoryview) -> VideoFormat:
    """The container format of a video.

    Raises:
        InvalidVideo: The format is not accepted.
    """
    head = bytes(data[:_HEAD_BYTES])
    if not head:
        raise InvalidVideo(f"The video is empty. Send the bytes of an {ACCEPTED} file.")
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return AVI
    if head[:4] == _EBML and (b"webm" in head or b"matroska" in head):
        return WEBM
    if head[4:8] == b"ftyp" and head[8:12] not in _NO_VIDEO:
        return MOV if head[8:12] == b"qt  " else MP4
    if head[4:8] in _QUICKTIME:
        return MOV
    raise InvalidVideo(f"This is not an accepted video. Send an {ACCEPTED} file.")
