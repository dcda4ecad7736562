"""Encoded images made on the spot: honest, odd and hostile ones."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

LOSSLESS = {"PNG": {}, "BMP": {}, "WEBP": {"lossless": True, "exact": True}}
SUFFIX = {"PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "JPEG": ".jpg", "GIF": ".gif"}


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Random pixels, uint8 [height, width, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG keeps well and that no turn or mirror maps onto itself, uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 255 * (x + 2 * y) / (width + 2 * height)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """Encode pixels (or a Pillow image) in one of Pillow's formats."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **{**LOSSLESS.get(kind, {}), **options})
    return buffer.getvalue()


def exif(orientation: int, byte_order: str = "<", kind: int = 3) -> bytes:
    """A minimal EXIF block that holds the orientation alone (kind 3: SHORT, 4: LONG)."""
    value = struct.pack(byte_order + ("I" if kind == 4 else "HH"), *([orientation] if kind == 4 else [orientation, 0]))
    header = (b"II" if byte_order == "<" else b"MM") + struct.pack(byte_order + "HI", 42, 8)
    return b"Exif\0\0" + header + struct.pack(byte_order + "HHHI", 1, 0x0112, kind, 1) + value + b"\0\0\0\0"


def png(
    width: int, height: int, depth: int, colour_type: int, rows: bytes, chunks: tuple[tuple[bytes, bytes], ...] = ()
) -> bytes:
    """A PNG file with raw, unfiltered `rows` (big-endian samples) and extra chunks before the pixels."""
    stride = len(rows) // height if height else 0
    filtered = b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data) for name, data in parts)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(width: int, height: int) -> bytes:
    """A small PNG file whose pixels are all zero: it grows some hundredfold when decoded. Height: hundreds of rows."""
    compressor = zlib.compressobj(1)
    rows = b"\0" * (1 + 3 * width) * 100
    body = b"".join(compressor.compress(rows) for _ in range(height // 100)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data) for name, data in parts)


def huge_headers(side: int = 13300) -> dict[str, bytes]:
    """Files of a few bytes that claim side x side pixels, one for each format."""
    jpeg = bytearray(encode(smooth(8, 8), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
    bmp = bytearray(encode(smooth(8, 8), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, side)
    gif = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    lossless = bytearray(encode(smooth(8, 8), "WEBP"))
    lossless[21:25] = struct.pack("<I", (side - 1) | (side - 1) << 14)
    lossy = bytearray(encode(smooth(8, 8), "WEBP", lossless=False))
    lossy[26:30] = struct.pack("<HH", side, side)
    extended = bytearray(encode(smooth(8, 8), "WEBP", exif=exif(1)))
    extended[24:30] = (side - 1).to_bytes(3, "little") * 2
    frame = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    frame_at = frame.index(b"\x2c", 13 + 3 * 2 ** ((frame[10] & 7) + 1))
    frame[frame_at + 5 : frame_at + 9] = struct.pack("<HH", side, side)
    return {
        "png": png(side, side, 8, 2, b"", ())[:200],
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "gif": bytes(gif),
        "gif-frame": bytes(frame),
        "webp-lossless": bytes(lossless),
        "webp-lossy": bytes(lossy),
        "webp-extended": bytes(extended),
    }


def mutants(seeds: list[bytes], number: int, seed: int = 0) -> list[bytes]:
    """Damaged copies: flipped bits, overwritten, deleted, repeated and cut stretches."""
    rng = np.random.default_rng(seed)
    result: list[bytes] = []
    for index in range(number):
        data = bytearray(seeds[index % len(seeds)])
        for _ in range(int(rng.integers(1, 4))):
            at, length = int(rng.integers(0, max(1, len(data)))), int(rng.integers(1, 33))
            match int(rng.integers(0, 5)):
                case 0 if data:
                    data[at] ^= 1 << int(rng.integers(0, 8))
                case 1:
                    data[at : at + length] = rng.bytes(length)
                case 2:
                    del data[at : at + length]
                case 3:
                    data[at:at] = data[at : at + length]
                case _:
                    del data[at:]
        result.append(bytes(data))
    return result
