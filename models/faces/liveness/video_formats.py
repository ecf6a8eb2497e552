"""What a client's video really is, told from its first bytes: never from its name or its type.

The decoder is then told which parser to use, so that no other one of FFmpeg's three hundred ever
meets these bytes: a playlist (HLS, concat) that reads other files or addresses, for one.
"""

from dataclasses import dataclass

from contracts.errors import InvalidVideo

ACCEPTED = "MP4, MOV, WebM or AVI"

# What says "still picture" or "sound only" in a file of the MP4 family.
_NO_VIDEO = {b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"M4A ", b"M4B ", b"jp2 "}
# Older QuickTime files begin with one of these in place of `ftyp`.
_QUICKTIME = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_EBML = b"\x1aE\xdf\xa3"
_DOC_TYPE_WITHIN = 4096


@dataclass(frozen=True, slots=True)
class VideoKind:
    """A container that is accepted.

    Attributes:
        name: As API.md calls it.
        demuxer: FFmpeg's name of its parser.
    """

    name: str
    demuxer: str


MP4 = VideoKind("mp4", "mov")
MOV = VideoKind("mov", "mov")
WEBM = VideoKind("webm", "matroska")
AVI = VideoKind("avi", "avi")


def sniff_video(data: bytes | memoryview) -> VideoKind:
    """The container of a video by its first bytes.

    Raises:
        InvalidVideo: It is none of the accepted ones.
    """
    head = bytes(data[:_DOC_TYPE_WITHIN])
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
