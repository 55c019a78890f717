"""Images and videos made to harm: bombs, lies in headers, files of other kinds."""

import base64
import binascii
import functools
import gzip
import io
import struct
import zipfile
import zlib
from typing import Any

from PIL import Image

from tests.engine import media

_HUGE = 60_000


def _saved(image: Image.Image, format: str, **more: Any) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    image.save(buffer, format, **more)
    return buffer.getvalue()


def picture(format: str, side: int = 200) -> bytes:  # noqa: A002
    """A picture that no format packs into nothing."""
    return _saved(Image.effect_noise((side, side), 90).convert("RGB"), format)


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", binascii.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width: int, height: int, *between: bytes, pixels: bytes = b"") -> bytes:
    """A PNG that states a size, has further chunks, and whatever pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    rest = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return signature + chunk(b"IHDR", header) + b"".join(between) + rest


def _patched(data: bytes, place: int, layout: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, place, *values)
    return bytes(changed)


@functools.cache
def huge_headers() -> dict[str, bytes]:
    """Small files that state 60,000 x 60,000 pixels."""
    jpeg, gif, bmp = picture("JPEG"), picture("GIF"), picture("BMP")
    webp = _saved(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP", lossless=False, exif=b"x" * 8)
    tiff = picture("TIFF")
    size = (200).to_bytes(2, "little")
    for tag in (b"\x00\x01", b"\x01\x01"):  # ImageWidth, ImageLength
        for width in (b"\x03\x00\x01\x00\x00\x00" + size, b"\x04\x00\x01\x00\x00\x00" + size):
            at = tiff.find(tag + width)
            if at >= 0:
                tiff = _patched(tiff, at + 2, "<HII", 4, 1, _HUGE)
    extended = _HUGE - 1
    canvas = extended.to_bytes(3, "little") * 2
    return {
        "PNG": png(_HUGE, _HUGE),
        "JPEG": _patched(jpeg, jpeg.index(b"\xff\xc0") + 5, ">HH", _HUGE, _HUGE),
        "GIF": _patched(gif, 6, "<HH", _HUGE, _HUGE),
        "BMP": _patched(bmp, 18, "<ii", _HUGE, _HUGE),
        "WEBP": webp[:24] + canvas + webp[30:],
        "TIFF": tiff,
    }


@functools.cache
def bombs() -> dict[str, bytes]:
    """Small files that inflate, and files that are no images at all."""
    zeros = bytes(100_000_000)
    packed = zlib.compress(zeros)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", zeros)
    return {
        "zip bomb": archive.getvalue(),
        "gzip bomb": gzip.compress(zeros),
        "zlib stream": packed,
        "PNG with a text bomb": png(20, 20, chunk(b"zTXt", b"a\0\0" + packed)),
        "PNG with an international text bomb": png(
            20, 20, chunk(b"iTXt", b"a\0\x01\0\0\0" + packed)
        ),
        "PNG with a profile bomb": png(20, 20, chunk(b"iCCP", b"a\0\0" + packed)),
        "PNG without pixels": png(20, 20),
        "PNG of no width": png(0, 20),
        "PNG of 2**31 - 1 pixels a side": png(2**31 - 1, 2**31 - 1),
        "PNG with a wrong check": picture("PNG").replace(b"IDAT", b"IDAU", 1),
        "GIF that is a script": b"GIF89a/*" + b" " * 60 + b"*/=1;alert(1)",
        "BMP of negative width": _patched(picture("BMP"), 18, "<i", -200),
        "TIFF whose directory is itself": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "TIFF without a directory": b"II*\0\xff\xff\xff\xff",
        "PDF": b"%PDF-1.7\n" + bytes(100),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n" + bytes(100),
        "ELF": b"\x7fELF" + bytes(100),
        "HTML": b"<!doctype html><script>alert(1)</script>" + bytes(100),
        "SVG with an entity": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a SYSTEM '
        b'"file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>',
        "pickle": b"\x80\x04\x95" + bytes(100),
        "numpy file": b"\x93NUMPY\x01\0" + bytes(100),
        "ICO": _saved(Image.new("RGB", (16, 16)), "ICO"),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(100),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        "zeros": bytes(10_000),
    }


def _video(suffix: str, codec: str) -> bytes:
    from tests.engine.hostile_files import make_video

    return make_video(codec, suffix)


@functools.cache
def videos() -> dict[str, tuple[bytes, str]]:
    """Videos that lie, with the words of the refusal."""
    mp4, avi = media.mp4(8), _video("avi", "MJPG")
    webm = _video("webm", "VP80")
    data = mp4.index(b"mdat") + 4
    size = int.from_bytes(mp4[data - 8 : data - 4], "big") - 8
    stts = mp4.index(b"stts")
    rate = avi.index(b"strh") + 8 + 20
    main = avi.index(b"avih") + 8
    return {
        "half an mp4": (half(mp4), "cannot be opened"),
        "half an avi": (half(avi), "cannot be opened"),
        "half an mkv": (half(_video("mkv", "mp4v")), "it ends after 2 of 12 frames"),
        "most of a webm": (webm[: len(webm) * 7 // 10], "it ends after 4 of 12 frames"),
        "mp4 without its index": (mp4.replace(b"moov", b"xxxx"), "cannot be opened"),
        "mp4 of frames that are not there": (
            mp4[:data] + bytes(size) + mp4[data + size :],
            "states no frame size",
        ),
        "mp4 of billions of frames": (
            _patched(mp4, stts + 12, ">I", 2**31 - 1),
            "media.max_video_frames",
        ),
        "avi of a million frames a second": (
            _patched(avi, rate, "<II", 1, 1_000_000),
            "media.max_video_fps",
        ),
        "avi that counts billions": (
            _patched(_patched(avi, main + 16, "<I", 2**31 - 1), rate + 12, "<I", 2**31 - 1),
            "media.max_video_frames",
        ),
        "playlist": (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/\n", "known format"),
        "concat list": (b"ffconcat version 1.0\nfile /etc/passwd\n" + bytes(60), "known format"),
        "session description": (b"v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", "known format"),
        "audio": (b"\0\0\0\x18ftypM4A \0\0\0\0" + bytes(100), "not a video file"),
        "wave": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(100), "not a video file"),
        "zip": (bombs()["zip bomb"], "not a video file"),
        "JPEG": (picture("JPEG"), "it is image/jpeg"),
        "zeros": (bytes(10_000), "not a video file"),
    }


@functools.cache
def frame_lists() -> dict[str, tuple[str, str]]:
    """Videos as lists of pictures that are not what they should be."""
    frame = base64.b64encode(picture("JPEG", 56)).decode()
    huge = base64.b64encode(huge_headers()["JPEG"]).decode()
    return {
        "nothing": ("", "empty"),
        "commas": (",,,", "empty"),
        "a last comma": (f"{frame},", "empty"),
        "no base64": (f"{frame},@@@", "base64"),
        "a huge one": (f"{frame},{huge}", "frame 1: it has more pixels"),
        "half a one": (f"{frame},{frame[: len(frame) // 8 * 4]}", "truncated"),
        "text": (f"{frame},aGVsbG8=", "not an image file"),
        "a thousand": (",".join([frame] * 1000), "1000 frames are given"),
    }
