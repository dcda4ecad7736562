"""Mutants of honest images: pixels or one error, in bounded time and memory.

VITRAIL_FUZZ_IMAGES in the environment says how many there are, 20,000 when it is not said. Mutant number N is the same
on every machine that encodes the honest ones in the same way.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.image_bombs import SRGB
from tests.support.images import encode, exif, noise, png, smooth
from vitrail.data import decode_image
from vitrail.selftest.fork_server import ForkServer

pytestmark = [pytest.mark.slow, pytest.mark.unchecked]

BATCH = 250


def _seeds() -> dict[str, bytes]:
    """One honest file of each format and form."""
    picture, even = Image.fromarray(noise(13, 17)), Image.fromarray(smooth(24, 40))
    frames = [Image.fromarray(noise(9, 9, seed)) for seed in range(3)]
    animated: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    palette, clear = picture.quantize(16), Image.fromarray(noise(13, 17, channels=4))
    tiffs: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "raw": (picture, {}),
        "lzw": (picture, {"compression": "tiff_lzw"}),
        "deflate": (clear, {"compression": "tiff_deflate"}),
        "packbits": (palette, {"compression": "packbits"}),
        "jpeg": (even, {"compression": "jpeg"}),
        "group4": (even.convert("1"), {"compression": "group4"}),
        "tiles": (picture, {"tiffinfo": {322: 16, 323: 16}}),
    }
    return {
        "png": encode(picture, "PNG", exif=exif(6), icc_profile=SRGB),
        "png-palette": encode(palette, "PNG", transparency=bytes(range(16))),
        "png-16-bit": png(5, 5, 16, 0, bytes(50), ((b"tRNS", b"\0\1"),)),
        "png-animated": encode(frames[0], "PNG", **animated),
        "jpeg": encode(even, "JPEG", exif=exif(3)),
        "jpeg-progressive": encode(even, "JPEG", progressive=True, icc_profile=SRGB),
        "jpeg-cmyk": encode(even.convert("CMYK"), "JPEG"),
        "jpeg-grey": encode(even.convert("L"), "JPEG", restart_marker_rows=1),
        "webp": encode(even, "WEBP", lossless=False),
        "webp-lossless": encode(clear, "WEBP", exif=exif(8), icc_profile=SRGB),
        "webp-animated": encode(frames[0], "WEBP", **animated),
        "gif": encode(palette, "GIF", transparency=3, comment=b"a" * 300),
        "gif-animated": encode(frames[0], "GIF", **animated),
        "bmp": encode(picture, "BMP"),
        "bmp-palette": encode(palette, "BMP"),
        "avif": encode(even, "AVIF"),
        "avif-transparent": encode(clear, "AVIF", exif=exif(6)[6:], icc_profile=SRGB),
        "avif-animated": encode(frames[0], "AVIF", **animated),
        **{f"tiff-{name}": encode(image, "TIFF", **options) for name, (image, options) in tiffs.items()},
        **_heic(even, clear),
    }


def _heic(*images: Image.Image) -> dict[str, bytes]:
    try:
        import pillow_heif
    except ImportError:
        return {}
    made: dict[str, bytes] = {}
    for image in images:
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, quality=80)
        made[f"heic-{image.mode}"] = buffer.getvalue()
    return made


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def test_the_honest_ones_are_read() -> None:
    for name, data in _seeds().items():
        assert decode_image(data, name=name).ndim == 3


def test_mutants(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    for name, data in _seeds().items():
        (tmp_path / "seeds" / name).write_bytes(data)
    count, log = int(os.environ.get("VITRAIL_FUZZ_IMAGES", "20000")), tmp_path / "log"
    failures: list[str] = []
    for first in range(0, count, BATCH):
        job = {
            "target": "image",
            "folder": str(tmp_path / "seeds"),
            "kind": "bytes",
            "first": first,
            "count": min(BATCH, count - first),
        }
        ended = server.run("tests.support.hostile:attempt_mutants", job, log=log, timeout=600)
        if ended.statuses != [0]:
            failures.append(f"{ended}: {log.read_text()[-1500:]}")
    assert not failures, f"{len(failures)} of {count / BATCH:.0f} batches\n" + "\n".join(failures[:5])
