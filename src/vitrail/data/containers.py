"""What of an image file decides its pixels: the rest is left out before the decoder sees it.

In: the bytes of a file. Out: a file of the same pixels without comments, texts, thumbnails, further pages and whatever
else can be damaged, huge or unknown while the picture is intact. Nothing is decoded here, and nothing is allocated by
what a header claims.
"""

import math
import re
import struct
import zlib


class NotRead(ValueError):
    """The file may be intact, and is of a kind that is not read here."""


MAX_PROFILE_BYTES = 4 << 20
"""Larger than every ICC profile in common use (CMYK press profiles have 0.5 to 2.5 MB)."""

MAX_CHUNKS = 100_000
"""Of a PNG or WebP file, blocks of a GIF file before its first frame; a PNG of 256 MB in chunks of 8 KB has 33,000."""

MAX_SCANS = 100
"""Of a JPEG file; progressive ones have about ten. Each scan goes over all pixels again."""

MANY_SCANS, MAX_SCANNED_PIXELS = 20, 10**9
"""More scans than the first of them go over no more pixels than the second, all together."""

MAX_STRIPS = 100_000
"""Or tiles, of a TIFF file; each is a step of its own for the decoder."""

MAX_RUN_LENGTH_PIXELS = 1 << 21
"""Of a run-length encoded BMP, which Pillow decodes in Python."""


# ---- PNG ---------------------------------------------------------------------------------------------------------


def bare_png(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """A PNG file with its critical chunks and its transparency alone; EXIF data and ICC profile beside it.

    Damaged ones of the latter two count as absent. A critical chunk is kept as it is, for the decoder to judge.

    Raises:
        ValueError: a palette image has no palette.
        NotRead: there are absurdly many chunks.
    Source: PNG specification, third edition, sections 5 (chunks) and 11 (iCCP, eXIf).
    """
    # Nothing but a header, pixels in one chunk and an end, as millions of small images have, is bare already.
    if data[37:41] == b"IDAT" and data[25] != 3 and data[45 + int.from_bytes(data[33:37]) :][4:8] == b"IEND":
        return data, {}
    parts, info, position, has_palette = [data[:8]], dict[str, bytes](), 8, False
    for _ in range(MAX_CHUNKS):
        if position + 12 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data) or not name.isalpha():  # the decoder says what is wrong
            break
        if name[:1].isupper() or name == b"tRNS":
            parts.append(data[position:end])
            has_palette |= name == b"PLTE"
            # A palette whose name is damaged looks like a chunk that does not matter; Pillow would take shades of grey.
            if name == b"IDAT" and data[25] == 3 and not has_palette:
                raise ValueError("no palette")
        elif name in (b"eXIf", b"iCCP") and length <= MAX_PROFILE_BYTES:
            body = data[position + 8 : end - 4]
            if zlib.crc32(body, zlib.crc32(name)) == int.from_bytes(data[end - 4 : end]):
                key, value = ("exif", b"Exif\0\0" + body) if name == b"eXIf" else ("icc_profile", _inflated(body))
                info.setdefault(key, value)
        position = end
        if name == b"IEND":
            break
    else:
        raise NotRead(f"more than {MAX_CHUNKS} chunks")
    return b"".join([*parts, data[position:]]), info


def _inflated(body: bytes) -> bytes:
    """The profile in an iCCP chunk: name, zero, method, zlib stream; empty where it is damaged or too large."""
    _, _, packed = body.partition(b"\0")
    try:
        stream = zlib.decompressobj()
        profile = stream.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if packed[:1] == b"\0" and stream.eof else b""


# ---- JPEG --------------------------------------------------------------------------------------------------------


def bare_jpeg(data: bytes) -> bytes:
    """A JPEG file without the application segments and comments that say nothing about pixels, or that are too short.

    JFIF and Adobe (which colours), EXIF and ICC profile stay.

    Raises:
        NotRead: absurdly many scans.
    Source: ITU-T T.81, B.1.1; libjpeg, examine_app0 and 14.
    """
    parts, position, pixels = [data[:2]], 2, 0
    while position + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, position)
        end = position + 2 + length
        # Start of the pixels, a marker without a length, or no marker at all: the decoder goes on from here.
        if not 0xFFC0 <= marker <= 0xFFFE or 0xFFD0 <= marker <= 0xFFDA or length < 2 or end > len(data):
            break
        if not (0xFFE0 <= marker <= 0xFFEF or marker == 0xFFFE) or _is_telling(marker, data[position + 4 : end]):
            parts.append(data[position:end])
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC) and length >= 8:
            pixels = math.prod(struct.unpack_from(">HH", data, position + 5))
        position = end
    # Pictures that follow, and videos, are no scans of this one; a closer look is only worth it where there are many.
    most = max(MANY_SCANS, min(MAX_SCANS, MAX_SCANNED_PIXELS // max(pixels, 1)))
    if data.count(b"\xff\xda", position) > most and _num_scans(data, position, most) > most:
        raise NotRead(f"more than {most} scans")
    return b"".join([*parts, data[position:]])


_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")


def _num_scans(data: bytes, position: int, most: int) -> int:
    """Scans up to the end of the image, no further than one too many."""
    count = 0
    while count <= most and (found := _MARKER.search(data, position)) and found[0] != b"\xff\xd9":
        count += found[0] == b"\xff\xda"
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return count


def _is_telling(marker: int, body: bytes) -> bool:
    start, least = {
        0xFFE0: (b"JFIF\0", 14),
        0xFFE1: (b"Exif\0\0", 6),
        0xFFE2: (b"ICC_PROFILE\0", 14),
        0xFFEE: (b"Adobe", 12),
    }.get(marker, (b"", 1 << 16))
    return body.startswith(start) and len(body) >= least


# ---- TIFF --------------------------------------------------------------------------------------------------------

# Width, height, compression, colours, fill order, orientation, samples, rows of a strip, planes, CCITT, predictor,
# tiles, place of YCbCr samples.
_TIFF_NUMBERS = {256, 257, 259, 262, 266, 274, 277, 278, 284, 292, 293, 317, 322, 323, 531}
# Bits, strips, palette, tiles, extra samples, kinds of samples, JPEG tables, YCbCr, reference black and white.
_TIFF_LISTS = {258, 273, 279, 320, 324, 325, 338, 339, 347, 530, 532}
_TIFF_PROFILE = 34675
_MOST_SAMPLES = 6
_TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TIFF_COMPRESSIONS = {
    1: "none",
    3: "CCITT",
    4: "CCITT",
    5: "LZW",
    7: "JPEG",
    8: "Deflate",
    32773: "PackBits",
    32946: "Deflate",
}


def bare_tiff(data: bytes) -> bytes:
    """A TIFF file of one page, with the tags that decide its pixels.

    Raises:
        ValueError, struct.error: damaged.
        NotRead: of a kind that is not read here.
    Source: TIFF revision 6.0, section 2.
    """
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    kept, total, numbers, lists = dict[int, bytes](), 0, dict[int, int](), dict[int, set[int]]()
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length, place = struct.unpack_from(order + "HHII", data, entry)
        size = _TIFF_TYPES.get(kind, 0) * length
        is_whole = 0 < size <= 4 or (size and place + size <= len(data))
        if tag in kept or (tag == _TIFF_PROFILE and not (is_whole and size <= MAX_PROFILE_BYTES)):
            continue
        if tag == 254 or tag in _TIFF_NUMBERS:
            if kind not in (3, 4) or length != 1:
                raise ValueError(f"tag {tag} is not one number")
            numbers.setdefault(tag, struct.unpack_from(order + "HI"[kind - 3], data, entry + 8)[0])
        if tag in (258, 339):
            if kind != 3 or length > _MOST_SAMPLES:
                raise NotRead(f"more than {_MOST_SAMPLES} channels are not read")
            lists[tag] = set(struct.unpack_from(f"{order}{length}H", data, entry + 8 if size <= 4 else place))
        if tag in _TIFF_NUMBERS or tag in _TIFF_LISTS or tag == _TIFF_PROFILE:
            total += size
            if length > MAX_STRIPS and tag in (273, 279, 324, 325):
                raise NotRead(f"more than {MAX_STRIPS} strips or tiles")
            if not is_whole or total > len(data):
                raise ValueError(f"tag {tag} lies outside the file or is too long")
            kept[tag] = data[entry : entry + 12]
    _check_tiff(numbers, lists)
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept.values()) + bytes(4)  # no next page
    return data[:start] + directory + data[start + len(directory) :]


def _check_tiff(numbers: dict[int, int], lists: dict[int, set[int]]) -> None:
    if numbers.get(254, 0) & 1:
        raise NotRead("the first page is a reduced copy, as in raw files of cameras, which are not read")
    compression = numbers.get(259, 1)
    if compression not in _TIFF_COMPRESSIONS:
        known = ", ".join(dict.fromkeys(_TIFF_COMPRESSIONS.values()))
        raise NotRead(f"compression {compression} is not read: {known} are")
    bits, kinds = lists.get(258, {1}), lists.get(339, {1})
    if len(bits) != 1 or not bits <= {1, 2, 4, 8, 16} or kinds != {1}:
        raise NotRead("samples other than whole numbers of 1, 2, 4, 8 or 16 bits are not read")
    if numbers.get(262) == 0 and bits == {16}:
        raise NotRead("16-bit samples with white as zero are not read")
    if numbers.get(277, 1) > _MOST_SAMPLES:
        raise NotRead(f"more than {_MOST_SAMPLES} channels are not read")
    width, height, across, down = (numbers.get(tag, 0) for tag in (256, 257, 322, 323))
    # Tiles cover the picture, and the last ones go beyond it; each is decoded whole.
    if across and down and -(-width // across) * across * -(-height // down) * down > 4 * width * height + (1 << 22):
        raise NotRead(f"tiles of {across} x {down} pixels cover many times the picture of {width} x {height}")


# ---- ICC profiles ------------------------------------------------------------------------------------------------

_ELEMENT_TAGS = {b"D2B0", b"D2B1", b"D2B2", b"D2B3", b"B2D0", b"B2D1", b"B2D2", b"B2D3"}


def bare_profile(profile: bytes) -> bytes:
    """An ICC profile without its tags of processing elements, of which there may be any number.

    A profile that has them has the tables that take their place as well. Source: ICC.1:2022, sections 7.3 and 8.3.
    """
    bare = bytearray(profile)
    for at in range(132, min(132 + 12 * int.from_bytes(profile[128:132]), len(profile)), 12):
        if profile[at : at + 4] in _ELEMENT_TAGS:
            bare[at : at + 4] = b"none"
    return bytes(bare)


# ---- sizes that are read before Pillow allocates a canvas --------------------------------------------------------


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas. Source: the WebP container and bit stream specifications (RFC 9649).

    Raises:
        ValueError: the first chunk is unknown.
        NotRead: absurdly many chunks, of which the frames of an animation are some.
    """
    position = 12
    for _ in range(MAX_CHUNKS):
        position += 8 + int.from_bytes(data[position + 4 : position + 8], "little") + 1 & ~1
        if position >= len(data):
            break
    else:
        raise NotRead(f"more than {MAX_CHUNKS} chunks")
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f"unknown chunk {chunk!r}")


def gif_size(data: bytes) -> tuple[int, int]:
    """Width and height that hold both the canvas and the first frame. Source: GIF89a specification."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    blocks = 0
    while data[position] == 0x21:  # extension blocks: two bytes, then sub-blocks up to one of length zero
        position += 2
        while data[position] and blocks <= MAX_CHUNKS:
            position, blocks = position + 1 + data[position], blocks + 1
        position, blocks = position + 1, blocks + 1
        if blocks > MAX_CHUNKS:
            raise NotRead(f"more than {MAX_CHUNKS} blocks before the first frame")
    if data[position] != 0x2C:
        raise ValueError("no frame")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, position + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def check_bmp(data: bytes) -> None:
    """Raise NotRead for a run-length encoded BMP that would take long. Source: BITMAPINFOHEADER."""
    if len(data) < 34 or int.from_bytes(data[14:18], "little") < 40 or data[30] not in (1, 2):
        return
    width, height = (abs(side) for side in struct.unpack_from("<ii", data, 18))
    pixels = width * height
    # At its longest: two bytes a pixel and four a row.
    if pixels > MAX_RUN_LENGTH_PIXELS or max(width, height) > 1 << 14 or len(data) > 2 * pixels + 4 * height + 8192:
        raise NotRead(f"run-length encoded, of more than {MAX_RUN_LENGTH_PIXELS} pixels or more bytes than it can need")
