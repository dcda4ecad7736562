"""The decoder: right pixels for odd but honest files, one kind of error for all others."""

import contextlib
import io
import os
import resource
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps

from tests.support.images import (
    LOSSLESS,
    encode,
    exif,
    huge_headers,
    mutants,
    noise,
    png,
    png_bomb,
    png_chunk,
    smooth,
)
from vitrail.config import Preprocessing
from vitrail.data import colour, decode, fit, store
from vitrail.data.colour import BACKGROUND
from vitrail.data.decode import Limits, decode_image, image_header, load_image
from vitrail.data.memory_budget import MemoryBudget
from vitrail.data.pillow_readers import small_webp
from vitrail.errors import ImageError
from vitrail.selftest.fork_server import ForkServer

JPEG_TOLERANCE = 6  # of 255, at quality 95 without chroma subsampling, smooth content
COLOUR_TOLERANCE = 3  # of 255, ICC to sRGB against the same transform without the decoder

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def over_white(pixels: np.ndarray) -> np.ndarray:
    """RGBA uint8 over white, correctly rounded."""
    alpha = pixels[..., 3:].astype(np.float64) / 255
    return np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


# ---- honest images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_same_pixels(kind: str) -> None:
    pixels = noise(7, 11)
    decoded = decode_image(encode(pixels, kind))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


def test_jpeg_is_close() -> None:
    pixels = smooth(40, 56)
    decoded = decode_image(encode(pixels, "JPEG", quality=95, subsampling=0)).astype(int)
    assert np.abs(decoded - pixels).max() <= JPEG_TOLERANCE


def test_path_and_bytes_agree(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encode(noise(5, 6), "PNG"))
    np.testing.assert_array_equal(decode_image(path), decode_image(path.read_bytes()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_orientation_is_applied_exactly(kind: str, orientation: int) -> None:
    pixels = noise(5, 8)
    decoded = decode_image(encode(pixels, kind, exif=exif(orientation)))
    np.testing.assert_array_equal(decoded, UPRIGHT[orientation](pixels))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("byte_order", "kind"), [("<", 3), (">", 3), (">", 4)])
def test_orientation_of_jpeg(orientation: int, byte_order: str, kind: int) -> None:
    data = encode(smooth(24, 40), "JPEG", exif=exif(orientation, byte_order, kind))
    stored = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_image(data), UPRIGHT[orientation](stored))
    np.testing.assert_array_equal(decode_image(data), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


@pytest.mark.parametrize(
    "block", [b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM", b"Exif\0\0nonsense", exif(9), exif(0)]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_orientation_is_ignored(kind: str, block: bytes) -> None:
    pixels = smooth(8, 16)
    plain, odd = encode(pixels, kind), encode(pixels, kind, exif=block)
    np.testing.assert_array_equal(decode_image(odd), decode_image(plain))


def test_grey_and_one_bit() -> None:
    grey = noise(6, 9, channels=1)[..., 0]
    np.testing.assert_array_equal(decode_image(encode(grey, "PNG")), np.repeat(grey[..., None], 3, axis=2))
    bits = grey > 127
    decoded = decode_image(encode(Image.fromarray(bits), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat(bits[..., None], 3, axis=2) * np.uint8(255))


def test_sixteen_bit_grey_ramp_keeps_256_levels() -> None:
    ramp = np.arange(65536, dtype=">u2").reshape(256, 256)
    decoded = decode_image(png(256, 256, 16, 0, ramp.tobytes()))
    np.testing.assert_array_equal(decoded[..., 0], ramp >> 8)
    assert len(np.unique(decoded)) == 256
    assert decoded.mean() == 127.5


def test_sixteen_bit_colour_takes_the_same_levels_as_grey() -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (9, 7, 3)).astype(">u2")
    decoded = decode_image(png(7, 9, 16, 2, samples.tobytes()))
    np.testing.assert_array_equal(decoded, samples >> 8)


def test_sixteen_bit_with_alpha() -> None:
    samples = np.random.default_rng(1).integers(0, 65536, (4, 5, 4)).astype(">u2")
    decoded = decode_image(png(5, 4, 16, 6, samples.tobytes()))
    assert np.abs(decoded.astype(int) - over_white((samples >> 8).astype(np.uint8))).max() <= 1  # rounding of the blend


@pytest.mark.parametrize("colour_type", [0, 2])
def test_sixteen_bit_with_a_transparent_colour(colour_type: int) -> None:
    channels = 1 if colour_type == 0 else 3
    samples = np.full((2, 2, channels), 0x1234, dtype=">u2")
    samples[0, 1] = 0xA000
    transparency = (b"tRNS", struct.pack(f">{channels}H", *[0x1234] * channels))
    decoded = decode_image(png(2, 2, 16, colour_type, samples.tobytes(), (transparency,)))
    assert decoded[0, 0].tolist() == list(BACKGROUND)
    assert decoded[0, 1].tolist() == [0xA0] * 3


def test_background_is_white_under_rgba_and_la() -> None:
    rgba = noise(6, 6, channels=4)
    assert np.abs(decode_image(encode(rgba, "PNG")).astype(int) - over_white(rgba)).max() <= 1
    assert np.abs(decode_image(encode(rgba, "WEBP")).astype(int) - over_white(rgba)).max() <= 1
    la = noise(6, 6, channels=2)
    expected = over_white(np.stack([la[..., 0]] * 3 + [la[..., 1]], axis=-1))
    assert np.abs(decode_image(encode(Image.fromarray(la, "LA"), "PNG")).astype(int) - expected).max() <= 1


def test_palette_with_transparency() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    assert decode_image(encode(palette, "PNG")).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    one_entry = decode_image(encode(palette, "PNG", transparency=0)).tolist()
    assert one_entry == [[[255, 255, 255], [0, 255, 0], [0, 0, 255]]]
    half = decode_image(encode(palette, "PNG", transparency=bytes([0, 255, 128]))).tolist()
    assert half == [[[255, 255, 255], [0, 255, 0], [127, 127, 255]]]


@pytest.mark.parametrize(("mode", "transparent"), [("L", 7), ("RGB", (1, 2, 3)), ("1", 0)])
def test_one_transparent_colour(mode: str, transparent: int | tuple[int, ...]) -> None:
    image = Image.new(mode, (2, 1), transparent)  # type: ignore[arg-type]
    other = {"L": 90, "RGB": (1, 2, 4), "1": 255}[mode]
    image.putpixel((1, 0), other)  # type: ignore[arg-type]
    decoded = decode_image(encode(image, "PNG", transparency=transparent)).tolist()
    expected = list(other) if isinstance(other, tuple) else [other] * 3
    assert decoded == [[[255, 255, 255], expected]]


@pytest.mark.parametrize("with_transparency", [False, True])
def test_first_frame_of_animations(with_transparency: bool) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((200, 10, 10), (10, 200, 10), (10, 10, 200))]
    options = {"save_all": True, "append_images": frames[1:], "duration": 50}
    for kind in ("GIF", "WEBP", "PNG"):
        extra = {"transparency": 0, "disposal": 2} if with_transparency and kind == "GIF" else {}
        decoded = decode_image(encode(frames[0], kind, **options, **extra))
        assert decoded.shape == (3, 4, 3)
        assert set(map(tuple, decoded.reshape(-1, 3).tolist())) <= {(200, 10, 10), (255, 255, 255)}


def test_interlaced_png_and_gif_and_progressive_jpeg() -> None:
    pixels = smooth(16, 16)
    palette = Image.fromarray(pixels).quantize(32)
    decoded = decode_image(encode(palette, "GIF", interlace=1))
    np.testing.assert_array_equal(decoded, np.asarray(palette.convert("RGB")))
    progressive = encode(pixels, "JPEG", progressive=True, quality=95, subsampling=0)
    assert np.abs(decode_image(progressive).astype(int) - pixels).max() <= JPEG_TOLERANCE
    np.testing.assert_array_equal(decode_image(_adam7(pixels)), pixels)


def _adam7(pixels: np.ndarray) -> bytes:
    """An interlaced PNG (Pillow reads them but does not write them)."""
    height, width, _ = pixels.shape
    rows = b""
    for top, left, down, right in [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]:
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[top::down, left::right])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data) for name, data in parts)


@pytest.mark.parametrize("size", [(1, 1), (1, 30000), (30000, 1)])
def test_extreme_sizes(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    np.testing.assert_array_equal(decode_image(encode(pixels, "PNG")), pixels)


def test_cmyk_without_profile() -> None:
    cmyk = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (0, 255, 255, 0)])
    decoded = decode_image(encode(cmyk, "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - [255, 0, 0]).max() <= JPEG_TOLERANCE


def test_profile_is_applied_and_a_broken_one_ignored() -> None:
    pixels = smooth(12, 12)
    lab_like = _wide_profile()
    plain = decode_image(encode(pixels, "PNG"))
    converted = decode_image(encode(pixels, "PNG", icc_profile=lab_like))
    source = ImageCms.ImageCmsProfile(io.BytesIO(lab_like))
    expected = ImageCms.profileToProfile(Image.fromarray(pixels), source, ImageCms.createProfile("sRGB"))
    assert expected is not None
    assert np.abs(converted.astype(int) - np.asarray(expected)).max() <= COLOUR_TOLERANCE
    assert np.abs(converted.astype(int) - plain).max() > 10 * COLOUR_TOLERANCE
    for broken in (b"nonsense", lab_like[:200], b"\0" * 400):
        np.testing.assert_array_equal(decode_image(encode(pixels, "PNG", icc_profile=broken)), plain)
    grey = encode(Image.fromarray(pixels[..., 0]), "PNG", icc_profile=lab_like)  # a colour profile in a grey image
    np.testing.assert_array_equal(decode_image(grey)[..., 0], pixels[..., 0])


def _wide_profile() -> bytes:
    """The sRGB profile with its red and green primaries exchanged: legal, and visibly different."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {data[at : at + 4].decode(): at for at in range(132, 132 + 12 * struct.unpack_from(">I", data, 128)[0], 12)}
    data[tags["rXYZ"] : tags["rXYZ"] + 4], data[tags["gXYZ"] : tags["gXYZ"] + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


def test_profile_keeps_alpha() -> None:
    rgba = np.dstack([smooth(6, 6), np.zeros((6, 6), dtype=np.uint8)])
    decoded = decode_image(encode(rgba, "PNG", icc_profile=_wide_profile()))
    assert (decoded == 255).all()


# ---- files that are refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"hello, I am a text file\n", b"\0" * 100, b"%PDF-1.7", b"II\x2b\0\x08", b"<svg/>"]
)
def test_what_is_no_image(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match="not an image") as caught:
        decode_image(path)
    assert caught.value.name == str(path)


def test_unreadable_paths(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(ImageError):
            decode_image(path)


def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        decode_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_truncated_files_never_give_other_pixels(kind: str) -> None:
    image = Image.fromarray(noise(24, 31)) if kind != "GIF" else Image.fromarray(noise(24, 31)).quantize(64)
    data = encode(image, kind)
    whole = decode_image(data)
    refused = 0
    for length in range(0, len(data), max(1, len(data) // 200)):
        try:
            # Some bytes after the last pixel may be missing without harm.
            np.testing.assert_array_equal(decode_image(data[:length]), whole)
        except ImageError:
            refused += 1
    assert refused > 150
    with pytest.raises(ImageError, match="damaged"):
        decode_image(data[: int(0.9 * len(data))])


def test_the_global_switch_for_truncated_files_is_off() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_byte_cap(tmp_path: Path) -> None:
    data = encode(noise(8, 8), "PNG")
    path = tmp_path / "image.png"
    path.write_bytes(data)
    for source in (data, path):
        decode_image(source, limits=Limits(max_bytes=len(data)))
        with pytest.raises(ImageError, match="bytes"):
            decode_image(source, limits=Limits(max_bytes=len(data) - 1))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs a file that says it is empty and is not")
def test_a_file_that_says_less_than_it_has_is_read_up_to_the_cap() -> None:
    path = Path("/proc/self/maps")
    with pytest.raises(ImageError, match="more than 10 bytes"):
        decode_image(path, limits=Limits(max_bytes=10))
    with pytest.raises(ImageError, match="not an image"):
        decode_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_pixel_cap(kind: str) -> None:
    data = encode(noise(8, 9), kind) if kind != "GIF" else encode(Image.new("P", (9, 8)), kind)
    decode_image(data, limits=Limits(max_pixels=72))
    with pytest.raises(ImageError, match="9 x 8 pixels"):
        decode_image(data, limits=Limits(max_pixels=71))


BOMB_SECONDS = 0.25  # measured: below 1 ms; generous because the machine is shared
BOMB_BYTES = 16 << 20


@contextlib.contextmanager
def memory_limit(num_bytes: int) -> Iterator[None]:
    """Let the process allocate so much more and then fail."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", [*huge_headers(), "png-bomb"])
def test_bombs_are_refused_before_anything_is_allocated(name: str) -> None:
    data = png_bomb(13300, 13300) if name == "png-bomb" else huge_headers()[name]
    with memory_limit(BOMB_BYTES), pytest.raises(ImageError, match="13300 x 13300 pixels"):
        started = time.perf_counter()
        decode_image(data, name="bomb")
    assert time.perf_counter() - started < BOMB_SECONDS


def decode_with_little_memory(kind: str) -> None:
    """An image too large for the memory that is left is not called damaged, and decodes when there is more."""
    options = {"progressive": True} if kind == "JPEG" else {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    data = encode(Image.new("P" if kind == "GIF" else "RGB", (4000, 4000)), kind, **options)
    with memory_limit(20 << 20), pytest.raises(ImageError, match="for the memory that is free") as caught:
        decode_image(data)
    assert "damaged" not in str(caught.value)
    assert decode_image(data).shape == (4000, 4000, 3)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_an_image_too_large_for_the_memory_is_not_called_damaged(tmp_path: Path) -> None:
    with ForkServer() as server:  # a process that has freed much would not need to ask for more
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
            job = "tests.data.test_decode:decode_with_little_memory"
            ended = server.run(job, {"kind": kind}, log=tmp_path / "log", timeout=60)
            assert ended.statuses == [0], f"{kind}: {ended}: {(tmp_path / 'log').read_text()[-1500:]}"


def test_every_way_of_decoding_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    class Recording(MemoryBudget):
        def taking(self, num_bytes: int) -> contextlib.AbstractContextManager[None]:
            taken.append(num_bytes)
            return super().taking(num_bytes)

    monkeypatch.setattr(decode, "_room", Recording())
    for data in (encode(smooth(320, 320), "JPEG", progressive=True), encode(noise(320, 320), "PNG")):
        for fast in (False, True):
            load_image(data, settings(32, 32, fast_decoding=fast))
        decode_image(data)
    assert len(taken) == 6
    assert min(taken) >= 8 * 40 * 40
    assert taken[1] == 8 * 40 * 40 + 6 * 320 * 320  # all coefficients, a part of the pixels


def test_a_file_too_large_for_the_memory_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    path = tmp_path / "image.png"
    path.write_bytes(encode(noise(8, 8), "PNG"))
    for name in ("open_image", "read_regular"):
        with monkeypatch.context() as patched, pytest.raises(ImageError, match="memory that is free"):
            patched.setattr(decode, name, fail)
            decode_image(path)


LARGE = (4500, 18000)
"""Height and width of 81 million pixels."""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["smooth", "noise"])
def test_81_megapixels(form: str) -> None:
    height, width = LARGE
    row = np.linspace(0, 255, width).astype(np.uint8)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = np.stack([row, row[::-1], row], 1)
    if form == "noise":
        pixels ^= np.random.default_rng(0).integers(0, 256, (height, 1, 1), dtype=np.uint8)
        pixels[:100, :5000] = noise(100, 5000)
    data = encode(pixels, "PNG", compress_level=1)
    with memory_limit(200 << 20), pytest.raises(ImageError, match="18000 x 4500 pixels, too many for the memory"):
        decode_image(data)
    with memory_limit(800 << 20):
        assert (decode_image(data) == pixels).all()
    loaded = load_image(data, settings(64, 64, fast_decoding=True))
    assert np.abs(loaded.astype(int) - load_image(data, settings(64, 64))).max() <= 2


@pytest.mark.parametrize("size", [(241, 240), (1, 61_000), (6100, 7)])
@pytest.mark.parametrize("form", ["RGBA", "L", "P", "16 bits", "profile"])
def test_pieces_are_as_the_whole(form: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (colour, decode, fit):
        monkeypatch.setattr(module, "AT_ONCE_PIXELS", 0)
    monkeypatch.setattr(colour, "_PIECE_PIXELS", 5_000)
    monkeypatch.setattr(colour, "_PIECE_SIDE", 50)
    image = Image.fromarray(noise(*size, channels=4))
    data = {
        "RGBA": lambda: encode(image, "PNG", exif=exif(6)),
        "L": lambda: encode(image.convert("L"), "PNG", transparency=7),
        "P": lambda: encode(image.convert("RGB").quantize(16), "PNG", transparency=bytes(range(16))),
        "16 bits": lambda: encode(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG"),
        "profile": lambda: encode(image.convert("RGB"), "PNG", icc_profile=_wide_profile()),
    }[form]()
    in_pieces = decode_image(data)
    monkeypatch.undo()
    np.testing.assert_array_equal(in_pieces, decode_image(data))


def test_a_photograph_of_12_megapixels_with_a_profile_of_a_megabyte() -> None:
    pixels = smooth(30, 4000).repeat(100, 0)
    short, long = (
        encode(pixels, "JPEG", quality=95, icc_profile=_wide_profile() + bytes(more)) for more in (0, 1 << 20)
    )
    assert len(long) > len(short) + (1 << 20)
    np.testing.assert_array_equal(decode_image(long), decode_image(short))


def test_sizes_between_pillows_limit_and_ours_do_not_warn() -> None:
    header = image_header(png(9500, 9500, 8, 0, b"", ()))
    assert (header.height, header.width, header.mode) == (9500, 9500, "L")


def _seeds() -> list[bytes]:
    pixels, palette = noise(12, 13), Image.fromarray(noise(12, 13)).quantize(16)
    frames = [Image.fromarray(noise(9, 9, seed)) for seed in range(3)]
    animated = {"save_all": True, "append_images": frames[1:]}
    return [
        encode(pixels, "PNG", exif=exif(6)),
        encode(smooth(12, 13), "JPEG", exif=exif(3)),
        encode(smooth(16, 16), "JPEG", progressive=True, icc_profile=_wide_profile()),
        encode(pixels, "WEBP", exif=exif(8)),
        encode(pixels, "WEBP", lossless=False),
        encode(pixels, "BMP"),
        encode(palette, "GIF", transparency=3),
        encode(frames[0], "GIF", **animated),
        encode(frames[0], "WEBP", **animated),
        encode(frames[0], "PNG", **animated),
        encode(palette, "PNG", transparency=bytes(range(16))),
        png(5, 5, 16, 0, bytes(50), ((b"tRNS", b"\0\1"),)),
        encode(Image.fromarray(pixels).convert("CMYK"), "JPEG"),
    ]


@pytest.mark.filterwarnings("ignore")
def test_mutants_give_pixels_or_an_image_error() -> None:
    accepted = 0
    limits = Limits(max_pixels=4_000_000)
    files = mutants(_seeds(), 2600)
    for number, data in enumerate(files):
        try:
            decoded = decode_image(data, name=f"mutant {number}", limits=limits)
        except ImageError:
            continue
        accepted += 1
        assert decoded.dtype == np.uint8
        assert decoded.shape[2] == 3
    assert 0.05 * len(files) < accepted < 0.95 * len(files)  # else the mutants test only one side


def test_threads_share_the_decoder() -> None:
    data = [encode(smooth(16, 16), "PNG", icc_profile=_wide_profile()), encode(noise(9, 9), "PNG")]
    alone = [decode_image(item) for item in data]
    barrier = threading.Barrier(4)

    def work() -> list[np.ndarray]:
        barrier.wait()
        return [decode_image(item) for _ in range(20) for item in data]

    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(work) for _ in range(4)]:
            for index, decoded in enumerate(result.result()):
                np.testing.assert_array_equal(decoded, alone[index % 2])


# ---- load_image --------------------------------------------------------------------------------------------------


def settings(height: int, width: int, **changes: object) -> Preprocessing:
    return Preprocessing(image_size=(height, width), decode_size=(height, width), **changes)  # type: ignore[arg-type]


def test_store_uses_this_very_function() -> None:
    assert store.load_image is load_image


@pytest.mark.parametrize("resize_filter", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
def test_an_image_of_the_right_size_is_untouched(resize_filter: str) -> None:
    pixels = noise(8, 10)
    loaded = load_image(encode(pixels, "PNG"), settings(8, 10, resize_filter=resize_filter))
    np.testing.assert_array_equal(loaded, pixels.transpose(2, 0, 1))
    assert loaded.flags.c_contiguous


def test_small_webp_files_are_decoded_as_pillow_does() -> None:
    """Whole and damaged ones, with nothing but pixels and with more: the short way gives the same, or nothing."""
    opaque, alpha = noise(12, 13), np.dstack([noise(12, 13), noise(12, 13, 1)[..., :1]])
    whole = [
        encode(opaque, "WEBP"),
        encode(opaque, "WEBP", lossless=False, quality=80),
        encode(smooth(300, 200), "WEBP"),
    ]
    other = [encode(alpha, "WEBP"), encode(opaque, "WEBP", exif=exif(8)), encode(noise(40, 400), "WEBP"), b"RIFF"]
    assert all(small_webp(data) is not None for data in whole)
    assert all(small_webp(data) is None for data in (*other[:2], other[3], encode(smooth(300, 300), "WEBP")))
    short = 0
    for data in (*whole, *other, *mutants(whole[:2], 1200)):
        pixels = small_webp(data)
        if pixels is not None:
            short += 1
            np.testing.assert_array_equal(pixels, decode_image(data))
    assert short > 100


def test_grey_channel_is_luminance() -> None:
    pixels = noise(8, 8)
    grey = settings(8, 8, channels="L", mean=(0.5,), std=(0.5,))
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    loaded = load_image(encode(pixels, "PNG"), grey)
    assert loaded.shape == (1, 8, 8)
    assert np.abs(loaded[0] - luminance).max() <= 1  # rounding of Pillow's fixed-point weights


@pytest.mark.parametrize("size", [(40, 60), (61, 40), (40, 61), (40, 64), (64, 40), (20, 90), (9, 7), (32, 33)])
def test_crop_is_resize_of_the_shorter_side_then_the_centre(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    loaded = load_image(encode(pixels, "PNG"), settings(32, 32, resize_mode="crop", resize_filter="bilinear"))
    height, width = size
    short = min(size)
    resized = Image.fromarray(pixels).resize(
        (int(32 * width / short), int(32 * height / short)), Image.Resampling.BILINEAR
    )
    left, top = round((resized.width - 32) / 2), round((resized.height - 32) / 2)
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32)))
    # Pillow's weights come from box coordinates in single precision here, and from whole numbers there.
    assert np.abs(loaded.transpose(1, 2, 0).astype(int) - expected).max() <= 1


def test_squash_is_pillows_resize() -> None:
    pixels = noise(20, 50)
    loaded = load_image(encode(pixels, "PNG"), settings(16, 24, resize_mode="squash", resize_filter="bicubic"))
    expected = Image.fromarray(pixels).resize((24, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(loaded.transpose(1, 2, 0), np.asarray(expected))


def test_a_very_long_image_costs_no_more_than_its_crop() -> None:
    data = encode(noise(1, 30000), "PNG")
    started = time.perf_counter()
    assert load_image(data, settings(224, 224)).shape == (3, 224, 224)
    assert time.perf_counter() - started < 5  # the whole resized image would have 1.5 billion pixels


def test_header_needs_no_pixels() -> None:
    data = encode(noise(30, 40), "PNG")
    header = image_header(data[:60])
    assert (header.format, header.mode, header.height, header.width) == ("PNG", "RGB", 30, 40)
