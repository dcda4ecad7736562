"""Small image files that cost much, or that lie: each is made here byte by byte, none is found in the wild.

A maker gives the bytes of one file. `SMALL` must be read or refused within the bounds of any file; `LARGE` have a
hundred megapixels, and may cost what their pixels cost.
"""

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image, ImageCms

from tests.support.images import encode, exif, png_chunk, smooth

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


# ---- PNG ---------------------------------------------------------------------------------------------------------


def flat_png(
    width: int, height: int, colours: int = 2, depth: int = 8, row_filter: int = 0, more: bytes = b"", repeat: int = 1
) -> bytes:
    """A PNG file of zeros, packed as well as Deflate can; `repeat`: times the height in rows that nobody asked for."""
    row = bytes([row_filter]) + bytes((width * _PNG_CHANNELS[colours] * depth + 7) // 8)
    compressor, parts = zlib.compressobj(5), list[bytes]()
    count = max(1, (1 << 20) // len(row))
    for y in range(0, height * repeat, count):
        parts.append(compressor.compress(row * min(count, height * repeat - y)))
    body = b"".join(parts) + compressor.flush()
    palette = png_chunk(b"PLTE", bytes(range(256)) * 3) if colours == 3 else b""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + palette + more + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def _packed(name: bytes, megabytes: int, level: int = 9) -> bytes:
    return png_chunk(name, b"a\0\0" + zlib.compress(bytes(megabytes << 20), level))


def _iccp(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"a\0\0" + zlib.compress(profile, 9))


def _one_byte_chunks() -> bytes:
    data = flat_png(3000, 5000)
    start, end = 41, len(data) - 16
    return data[:33] + b"".join(png_chunk(b"IDAT", data[i : i + 1]) for i in range(start, end)) + data[-12:]


def elements_profile(number: int) -> bytes:
    """An ICC profile in which a colour goes through so many curves, all of them the same few bytes of the file."""
    segment = b"parf" + bytes(4) + struct.pack(">HHffff", 0, 0, 1, 1, 0, 0)
    curve = b"curf" + bytes(4) + struct.pack(">HH", 1, 0) + segment
    curves = b"cvst" + bytes(4) + struct.pack(">HH6I", 3, 3, *(36, len(curve)) * 3) + curve
    places = struct.pack(">II", 16 + 8 * number, len(curves)) * number
    elements = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, number) + places + curves
    corners = [65535 * (corner >> bit & 1) for corner in range(8) for bit in (2, 1, 0)]
    table = b"mft2" + bytes(4) + struct.pack(">BBBB9i", 3, 3, 2, 0, *(65536, 0, 0, 0) * 2, 65536)
    table += struct.pack(">HH6H24H6H", 2, 2, *(0, 65535) * 3, *corners, *(0, 65535) * 3)
    text = b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", 2, 28) + b"\0a\0\0"
    white = struct.pack(">iii", 63190, 65536, 54061)
    tags = {b"desc": text, b"cprt": text, b"wtpt": b"XYZ " + bytes(4) + white, b"D2B0": elements, b"A2B0": table}
    index, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        index += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s6H", start + len(body), b"lcms", 0x04400000, b"mntr", b"RGB ", b"XYZ ", *[1] * 6)
    header = (header + b"acsp" + bytes(28) + white).ljust(128, b"\0")
    return header + struct.pack(">I", len(tags)) + index + body


PNG: dict[str, Callable[[], bytes]] = {
    "png, 16 megapixels": lambda: flat_png(4000, 4000),
    "png, 16 megapixels of 64 bits and a profile": lambda: flat_png(4000, 4000, 6, 16, 4, _iccp(SRGB)),
    "png, tall": lambda: flat_png(1, 16_000_000),
    "png, wide": lambda: flat_png(16_000_000, 1, 6),
    "png, no pixels": lambda: (
        flat_png(9999, 0, 6)[:33].replace(b"\0\0\0\0\x08", b"\0\0\x27\x0f\x08") + png_chunk(b"IEND", b"")
    ),
    "png, pixels behind the image": lambda: flat_png(1000, 100, 2, repeat=1000),
    "png, chunks": lambda: flat_png(4, 4, more=png_chunk(b"tEXt", b"") * 2_000_000),
    "png, chunks of one byte": _one_byte_chunks,
    "png, palettes": lambda: flat_png(4, 4, 3, more=png_chunk(b"PLTE", bytes(768)) * 50_000),
    "png, packed texts": lambda: flat_png(4, 4, more=(_packed(b"zTXt", 100) + _packed(b"iTXt", 100)) * 3),
    "png, packed profiles": lambda: flat_png(4, 4, more=_packed(b"iCCP", 100) * 20),
    "png, a long exif": lambda: flat_png(4, 4, more=png_chunk(b"eXIf", exif(6)[6:] + bytes(30 << 20))),
    "png, a profile of many elements": lambda: flat_png(4, 4, more=_iccp(elements_profile(300_000))),
}

# ---- JPEG, WebP, GIF, BMP ----------------------------------------------------------------------------------------


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG file whose last scan is there many times."""
    data = encode(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * scans + data[-2:]


def _flat(mode: str, kind: str, side: int = 4000, **options: object) -> Callable[[], bytes]:
    return lambda: encode(Image.new(mode, (side, side)), kind, **options)


def _webp_claims(side: int) -> bytes:
    data = bytearray(encode(smooth(8, 8), "WEBP"))
    data[21:25] = struct.pack("<I", (side - 1) | (side - 1) << 14)
    return bytes(data[:34])


def _webp_222() -> bytes:
    data = bytearray(encode(Image.new("RGB", (16, 16)), "WEBP", lossless=False))
    data[26:30] = struct.pack("<HH", 16383, 16383)
    return bytes(data.ljust(222, b"\0"))


def _webp_frames(number: int) -> bytes:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    at = data.index(b"ANMF")
    size = 8 + struct.unpack_from("<I", data, at + 4)[0] + 1 & ~1
    whole = data[:at] + data[at : at + size] * number
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]


def _gif(blocks: bytes, behind: bytes = b"") -> bytes:
    """A GIF file with extension blocks before its frame and more frames behind it."""
    data = encode(Image.new("P", (9, 9)), "GIF")
    at = 13 + 3 * (2 << (data[10] & 7))
    return data[:at] + blocks + data[at:-1] + behind + b";"


def _bmp(side: int, body: bytes, compression: int = 1, bits: int = 8) -> bytes:
    palette = bytes(4 << bits)
    start = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, bits, compression, len(body), 0, 0, 1 << bits, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + palette + body


OTHERS: dict[str, Callable[[], bytes]] = {
    "jpeg, 1000 scans": lambda: many_scans(2000, 1000),
    "jpeg, 60 scans of 16 megapixels": lambda: many_scans(4000, 50),
    "jpeg, 95 scans of 16 megapixels": lambda: many_scans(4000, 85),
    "jpeg, 95 scans of 100 megapixels": lambda: many_scans(10_000, 85),
    "jpeg, progressive, of four colours": _flat("CMYK", "JPEG", progressive=True),
    "jpeg, turned, with a profile": _flat("RGB", "JPEG", progressive=True, icc_profile=SRGB, exif=exif(6)),
    "webp of 34 bytes": lambda: _webp_claims(16383),
    "webp of 34 bytes, 16 megapixels": lambda: _webp_claims(4000),
    "webp of 222 bytes": _webp_222,
    "webp, one colour": _flat("RGB", "WEBP"),
    "webp, one colour, lossy": _flat("RGB", "WEBP", lossless=False),
    "webp, transparent, with a profile": _flat("RGBA", "WEBP", icc_profile=SRGB),
    "webp, animated": _flat("RGBA", "WEBP", save_all=True, append_images=[Image.new("RGBA", (4000, 4000), "red")]),
    "webp, frames": lambda: _webp_frames(500_000),
    "webp, chunks": lambda: encode(Image.new("RGBA", (4, 4)), "WEBP", exif=exif(1)) + b"abcd\0\0\0\0" * 2_000_000,
    "gif, one colour": _flat("P", "GIF", transparency=0),
    "gif, sub-blocks": lambda: _gif(b"\x21\xfe" + b"\1a" * 5_000_000 + b"\0"),
    "gif, a long comment": lambda: _gif(b"\x21\xfe" + (b"\xff" + b"a" * 255) * 99_000 + b"\0"),
    "gif, comments": lambda: _gif(b"\x21\xfe\1a\0" * 49_000),
    "gif, frames": lambda: _gif(b"", (b"\x2c" + struct.pack("<HHHHB", 0, 0, 9, 9, 0) + b"\2\1\0\0") * 1_000_000),
    "bmp of 41 KB, run-length encoded": lambda: _bmp(10_000, b"\0\2\xff\xff" * 10_000),
    "bmp, runs of nothing": lambda: _bmp(1448, b"\1\0" * 2_090_000),
    "bmp, steps of nothing": lambda: _bmp(1448, b"\0\2\0\0" * 1_000_000),
    "bmp, runs of half bytes": lambda: _bmp(1448, b"\0\3\1\1" * 1_000_000, 2, 4),
    "bmp, no pixels": lambda: _bmp(9999, b"", 0),
}

# ---- TIFF --------------------------------------------------------------------------------------------------------


def tiff(width: int, height: int, body: bytes, number: int, more: dict[int, tuple[int, ...]]) -> bytes:
    """A TIFF file of RGB pixels whose `number` strips or tiles are all the same bytes."""
    tags: dict[int, tuple[int, ...]] = {256: (width,), 257: (height,), 258: (8, 8, 8), 259: (8,), 262: (2,), 277: (3,)}
    tags |= more
    places, lengths = (324, 325) if 322 in tags else (273, 279)
    tags |= {places: (8,) * number, lengths: (len(body),) * number}
    out, entries = bytearray(b"II*\0" + bytes(4) + body + bytes(len(body) % 2)), list[bytes]()
    for tag in sorted(tags):
        kind, letter = (3, "H") if tag in (258, 259, 262, 277, 338) else (4, "I")
        value = struct.pack(f"<{len(tags[tag])}{letter}", *tags[tag])
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", len(out))
        out += value if len(value) > 4 else b""
        entries.append(struct.pack("<HHI", tag, kind, len(tags[tag])) + place)
    out[4:8] = struct.pack("<I", len(out))
    return bytes(out) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def _zeros(number: int) -> bytes:
    return zlib.compress(bytes(number), 9)


TIFF: dict[str, Callable[[], bytes]] = {
    "tiff, strips in one place": lambda: tiff(10_000, 10_000, _zeros(3_000_000), 100, {278: (100,)}),
    "tiff, 16 megapixels": lambda: tiff(4000, 4000, _zeros(1_200_000), 40, {278: (100,)}),
    "tiff, 100 megapixels in 6 KB": lambda: encode(Image.new("1", (10_000, 10_000), 1), "TIFF", compression="group4"),
    "tiff, 33 megapixels of one bit": lambda: encode(Image.new("1", (4800, 6800), 1), "TIFF", compression="group4"),
    "tiff, a million strips": lambda: tiff(1, 1_000_000, bytes(3), 1_000_000, {259: (1,), 278: (1,)}),
    "tiff, tiles": lambda: tiff(10_000, 10_000, bytes(768), 390_625, {259: (1,), 322: (16,), 323: (16,)}),
    "tiff, one huge tile": lambda: tiff(10, 10, _zeros(3 * 13_000**2), 1, {322: (13_000,), 323: (13_000,)}),
    "tiff, a claim of a huge tile": lambda: tiff(10, 10, b"\x80\0\0", 1, {259: (5,), 322: (16_000,), 323: (16_000,)}),
    "tiff, wide tiles": lambda: tiff(1, 900_000, _zeros(12 << 20), 56_250, {322: (1 << 18,), 323: (16,)}),
    "tiff, many channels": lambda: tiff(100, 100, _zeros(80_000), 1, {258: (8,) * 8, 277: (8,), 278: (100,)}),
    "tiff, tags": lambda: b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 60_000, 3, 1, 0) * 65_535 + bytes(4),
}

# ---- AVIF and HEIC -----------------------------------------------------------------------------------------------


def _lying(data: bytes, size: tuple[int, int]) -> bytes:
    """A file whose container says 64 x 64 pixels, whatever the stream in it has."""
    named = b"ispe\0\0\0\0" + struct.pack(">II", *size)
    assert named in data
    return data.replace(named, b"ispe\0\0\0\0" + struct.pack(">II", 64, 64))


def _heic(mode: str, side: int) -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.new(mode, (side, side))).save(buffer, quality=50)
    return buffer.getvalue()


BOXES: dict[str, Callable[[], bytes]] = {
    "avif, one colour": _flat("RGB", "AVIF", speed=10),
    "avif, transparent, all colours": _flat("RGBA", "AVIF", speed=10, subsampling="4:4:4"),
    "avif, a wrong size": lambda: _lying(_flat("RGB", "AVIF", 8192, speed=10)(), (8192, 8192)),
    "heic, transparent": lambda: _heic("RGBA", 4000),
    "heic, a wrong size": lambda: _lying(_heic("RGB", 2048), (2048, 2048)),
}

SMALL = PNG | OTHERS | TIFF | BOXES

LARGE: dict[str, Callable[[], bytes]] = {
    "png of 292 KB": lambda: flat_png(10_000, 10_000),
    "png of 389 KB, transparent": lambda: flat_png(10_000, 10_000, 6),
    "png, 64 bits": lambda: flat_png(10_000, 10_000, 6, 16, 4),
    "png, black and white": lambda: flat_png(10_000, 10_000, 0, 1),
    "png, with a profile": lambda: flat_png(10_000, 10_000, more=_iccp(SRGB)),
    "tiff": lambda: tiff(10_000, 10_000, _zeros(3_000_000) + bytes(100_000), 100, {278: (100,)}),
    "webp": lambda: encode(Image.new("RGB", (10_000, 10_000)), "WEBP") + bytes(100_000),
}
"""A hundred megapixels each, in at least a byte for a thousand of them or in a format that packs no better."""
