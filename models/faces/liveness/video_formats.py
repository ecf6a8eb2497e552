"""Detects the container format of a video from its first bytes, never from its name or type.

The decoder then uses only the parser for this format. None of FFmpeg's three hundred others ever
reads the file, such as those for playlists (HLS, concat), which open other files or URLs.
"""

from dataclasses import dataclass

from contracts.errors import InvalidVideo
from models.images.formats import describe

ACCEPTED = "MP4, MOV, WebM or AVI"

# Brands of still images and audio in the MP4 family.
_NO_VIDEO = {b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"M4A ", b"M4B ", b"jp2 "}
# Older QuickTime files begin with one of these instead of `ftyp`.
_QUICKTIME = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_EBML = b"\x1aE\xdf\xa3"
# Only for the error message: what people record or send by mistake.
_OTHER_FORMATS = (
    (b"\0\0\x01\xba", "an MPEG program stream"),
    (b"\0\0\0\x01", "a video without a container"),
    (b"YUV4MPEG2", "a video that is not compressed"),
    (b"FLV", "a Flash video"),
    (b"0&\xb2u", "a Windows Media file"),
    (b"OggS", "an Ogg file"),
    (b".RMF", "a RealMedia file"),
    (b"#EXTM3U", "a playlist"),
    (b"ID3", "a sound file"),
)
_TS_PACKET_BYTES = 188
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
    looks_like = _describe(head)
    raise InvalidVideo(f"This is {looks_like}, not an accepted video. Send an {ACCEPTED} file.")


def _describe(head: bytes) -> str:
    if head[:1] == b"G" and head[_TS_PACKET_BYTES : _TS_PACKET_BYTES + 1] == b"G":
        return "an MPEG transport stream"
    is_wave = head[:4] == b"RIFF" and head[8:12] == b"WAVE"
    if is_wave or (head[4:8] == b"ftyp" and head[8:11] in {b"M4A", b"M4B"}):
        return "a sound file"
    for magic, name in _OTHER_FORMATS:
        if head.startswith(magic):
            return name
    return describe(head)
