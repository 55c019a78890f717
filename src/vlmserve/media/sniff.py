"""Tells what kind of file some bytes are by how they begin."""

_IMAGE_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"BM", "image/bmp"),
)

# The form type at offset 8 of a RIFF file.
_RIFF_FORMS = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}

# The major brand at offset 8 of an ISO base media file (ISO/IEC 14496-12, "ftyp"). Brands that are
# not listed are MP4: isom, iso2, mp42, avc1, M4V and many more.
_BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"msf1": "image/heif",
    b"qt  ": "video/quicktime",
}
_AUDIO_BRANDS = (b"M4A ", b"M4B ")

_EBML_MAGIC = b"\x1aE\xdf\xa3"
# The document type lies in the EBML header, within its first few dozen bytes.
_EBML_HEADER_BYTES = 64


def sniff_content_type(data: bytes) -> str | None:
    """Name the MIME type of an image or video file.

    Args:
        data: The file, or at least its first 64 bytes.

    Returns:
        A type such as ``image/png`` or ``video/mp4``; ``None`` where the bytes begin like no image
        or video known here. Bytes that begin well may still be broken further on.
    """
    for magic, content_type in _IMAGE_MAGIC:
        if data.startswith(magic):
            return content_type
    kind, form = data[4:8], data[8:12]
    if data.startswith(b"RIFF"):
        return _RIFF_FORMS.get(form)
    if kind == b"ftyp":
        return None if form in _AUDIO_BRANDS else _BRANDS.get(form, "video/mp4")
    if data.startswith(_EBML_MAGIC):
        webm = b"webm" in data[:_EBML_HEADER_BYTES]
        return "video/webm" if webm else "video/x-matroska"
    return None
