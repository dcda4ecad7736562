"""What kind of image a file is, by its first bytes, and what it is if it is none."""

READ = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF and HEIC are read"
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_OTHERS = {
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML or SVG",
    b"II\x2b\0": "BigTIFF",
    b"MM\0\x2b": "BigTIFF",
    b"\0\0\1\0": "icon",
    b"version https://git-lfs": "Git LFS pointer (git lfs pull fetches the image)",
}
"""First bytes of what people take for readable images, for the message."""


def format_of(data: bytes) -> str | None:
    """The format of an image file; None for one that is not read."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if data[4:8] == b"ftyp":  # ISO base media: the major brand, a version, compatible brands
        brands = {data[at : at + 4] for at in (8, *range(16, min(int.from_bytes(data[:4]), 64), 4))}
        return "AVIF" if brands & {b"avif", b"avis"} else "HEIC" if brands & _HEIC_BRANDS else None
    return "BMP" if data.startswith(b"BM") else None


def image_format(head: bytes) -> str | None:
    """The format of an image file by its first 32 bytes; None for a file of another kind."""
    kind = format_of(head)
    # Two letters may begin any text; of a bitmap's second header the size is small.
    return kind if kind != "BMP" or head[15:18] == b"\0\0\0" else None


def describe_start(data: bytes) -> str:
    """What a file is that is no image, in a few words."""
    if not data:
        return "it is empty"
    other = next((name for start, name in _OTHERS.items() if data.startswith(start)), None)
    return f"it is a {other} file" if other else f"it starts with {bytes(data[:8])!r}"
