"""What lies beside the pixels of a file changes nothing, and TIFF, AVIF and HEIC are read."""

import io
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.support import image_bombs
from tests.support.images import encode, exif, mutants, noise, png, png_chunk, smooth
from vitrail.config import Preprocessing
from vitrail.data.decode import Limits, decode_image, image_header, load_image
from vitrail.errors import ImageError

LOSSY_TOLERANCE = 8  # of 255, at quality 90 and above, smooth content
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_bad_checksum(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def with_chunks(image: bytes, *chunks: bytes) -> bytes:
    """A PNG file with more chunks behind its header."""
    return image[:33] + b"".join(chunks) + image[33:]


# ---- PNG ---------------------------------------------------------------------------------------------------------

TEXT = b"Comment\0" + b"many words " * 300_000
ANCILLARY = {
    "a text of 3 MB": png_chunk(b"tEXt", TEXT),
    "a packed text of 3 MB": png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(TEXT)),
    "many texts": png_chunk(b"tEXt", b"Comment\0" + bytes(1 << 20)) * 70,
    "a bad checksum": with_bad_checksum(png_chunk(b"pHYs", bytes(9))),
    "a text that is cut": png_chunk(b"iTXt", b"Comment"),
    "another compression of a text": png_chunk(b"zTXt", b"Comment\0\7" + bytes(30)),
    "another compression of the profile": png_chunk(b"iCCP", b"name\0\1" + zlib.compress(SRGB)),
    "a damaged profile": png_chunk(b"iCCP", b"name\0\0" + zlib.compress(SRGB)[:-9]),
    "a bad checksum of EXIF data": with_bad_checksum(png_chunk(b"eXIf", exif(6)[6:])),
    "a short size": png_chunk(b"pHYs", b"\1"),
    "a chunk that nobody knows": png_chunk(b"quIp", bytes(1000)),
}


@pytest.mark.parametrize("chunk", ANCILLARY.values(), ids=ANCILLARY)
def test_what_does_not_matter_may_be_damaged(chunk: bytes) -> None:
    pixels = noise(7, 9)
    np.testing.assert_array_equal(decode_image(with_chunks(encode(pixels, "PNG"), chunk)), pixels)


def test_a_profile_of_more_than_a_megabyte_is_used() -> None:
    swapped = SRGB.replace(b"rXYZ", b"tmp_").replace(b"gXYZ", b"rXYZ").replace(b"tmp_", b"gXYZ")
    pixels = smooth(8, 8)
    small = decode_image(encode(pixels, "PNG", icc_profile=swapped))
    assert (small != pixels).any()
    chunk = png_chunk(b"iCCP", b"name\0\0" + zlib.compress(swapped + bytes(2 << 20)))
    np.testing.assert_array_equal(decode_image(with_chunks(encode(pixels, "PNG"), chunk)), small)


def test_what_matters_must_be_whole() -> None:
    palette = encode(Image.fromarray(noise(9, 9)).quantize(16), "PNG")
    at = palette.index(b"PLTE")
    end = at + 8 + int.from_bytes(palette[at - 4 : at])
    for start in (33 - 4, end - 4):  # checksums of header and palette
        damaged = bytearray(palette)
        damaged[start] ^= 1
        with pytest.raises(ImageError, match="damaged"):
            decode_image(bytes(damaged))
    with pytest.raises(ImageError, match="no palette"):
        decode_image(palette.replace(b"PLTE", b"pLTE"))
    transparency = with_bad_checksum(png_chunk(b"tRNS", bytes(6)))
    with pytest.raises(ImageError, match="damaged"):
        decode_image(with_chunks(encode(noise(9, 9), "PNG"), transparency))


# ---- JPEG --------------------------------------------------------------------------------------------------------


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">HH", marker, len(body) + 2) + body


SEGMENTS = {
    "Adobe, too short": segment(0xFFEE, b"Adobe"),
    "a profile, too short": segment(0xFFE2, b"ICC_PROFILE\0"),
    "Photoshop, cut": segment(0xFFED, b"Photoshop 3.0\0008BIM\4\4"),
    "JFIF, too short": segment(0xFFE0, b"JFIF\0"),
    "camera pictures": segment(0xFFE2, b"MPF\0" + bytes(20)),
    "a comment": segment(0xFFFE, bytes(65000)) * 20,
    "XMP": segment(0xFFE1, b"http://ns.adobe.com/xap/1.0/\0" + b'tiff:Orientation="6"'),
}


@pytest.mark.parametrize("more", SEGMENTS.values(), ids=SEGMENTS)
def test_segments_of_applications_do_not_matter(more: bytes) -> None:
    data = encode(smooth(24, 40), "JPEG", exif=exif(3))
    np.testing.assert_array_equal(decode_image(data[:2] + more + data[2:]), decode_image(data))


def test_pictures_of_phones() -> None:
    """MPO: several JPEG images one behind the other. The first one counts, whatever follows."""
    pixels = smooth(24, 40)
    several = encode(Image.fromarray(pixels), "MPO", save_all=True, append_images=[Image.fromarray(pixels[::-1])])
    assert Image.open(io.BytesIO(several)).format == "MPO"
    assert np.abs(decode_image(several).astype(int) - pixels).max() <= LOSSY_TOLERANCE
    single = encode(pixels, "JPEG")
    np.testing.assert_array_equal(decode_image(single + bytes(5000)), decode_image(single))


def test_fast_decoding_finds_the_same_files_damaged() -> None:
    exact = Preprocessing(image_size=(16, 16), decode_size=(16, 16))
    seeds = [encode(smooth(64, 80), "JPEG", **o) for o in ({}, {"progressive": True}, {"icc_profile": SRGB})]
    seeds.append(encode(Image.fromarray(smooth(64, 80)).convert("CMYK"), "JPEG"))
    counts = [0, 0]
    for data in mutants(seeds, 1500):
        said = []
        for preprocessing in (exact, replace(exact, fast_decoding=True)):
            try:
                load_image(data, preprocessing)
                said.append(True)
            except ImageError:
                said.append(False)
        assert said[0] == said[1]
        counts[said[0]] += 1
    assert min(counts) > 100


# ---- BMP ---------------------------------------------------------------------------------------------------------


def bmp(
    width: int, height: int, bits: int, rows: bytes, compression: int = 0, extra: bytes = b"", size: int = 40
) -> bytes:
    """A BMP file with a header of 40 bytes or more."""
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(rows), 0, 0, 0, 0)
    header += extra
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows


def test_forms_of_bmp() -> None:
    pixels = noise(4, 4)
    rows = pixels[..., ::-1].tobytes()
    np.testing.assert_array_equal(decode_image(bmp(4, -4, 24, rows)), pixels)  # from the top down
    np.testing.assert_array_equal(
        decode_image(bmp(4, 4, 24, rows, extra=bytes(84), size=124)), pixels[::-1]
    )  # version 5
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    green = struct.pack("<H", 0x07E0) * 16
    assert (decode_image(bmp(4, 4, 16, green, 3, masks)) == [0, 255, 0]).all()
    assert (decode_image(bmp(4, 4, 16, struct.pack("<H", 0x7C00) * 16)) == [255, 0, 0]).all()
    palette = bytes(4) + b"\1\2\3\0" + bytes(4 * 254)
    runs = bmp(4, 4, 8, (b"\4\1\0\0" * 4) + b"\0\1", 1, palette)
    assert (decode_image(runs) == [3, 2, 1]).all()


# ---- TIFF, AVIF, HEIC --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B"])
def test_tiff(mode: str, compression: str | None) -> None:
    picture = Image.fromarray(smooth(24, 40))
    picture.putpixel((3, 4), (255, 0, 255))
    if mode.startswith("I"):
        order = ">" if mode.endswith("B") else "<"
        picture = Image.fromarray((smooth(24, 40)[..., 0].astype(f"{order}u2") * 257).astype(f"{order}u2"))
    else:
        picture = picture.convert(mode)
    if (compression == "jpeg" and mode[0] in "1PI") or (compression == "group4" and mode != "1"):
        return
    quality = {"quality": 95} if compression == "jpeg" else {}
    decoded = decode_image(encode(picture, "TIFF", compression=compression, **quality)).astype(int)
    expected = smooth(24, 40)[..., :1] if mode.startswith("I") else np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(decoded - expected).max() <= (40 if compression == "jpeg" else 0)  # one odd pixel in a smooth picture


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_tiff_is_upright_and_its_first_page_counts(orientation: int) -> None:
    pixels = smooth(24, 40)
    picture = Image.fromarray(pixels)
    picture.getexif()[0x0112] = orientation
    data = encode(picture, "TIFF", exif=picture.getexif(), save_all=True, append_images=[Image.fromarray(noise(5, 5))])
    np.testing.assert_array_equal(decode_image(data), decode_image(encode(pixels, "PNG", exif=exif(orientation))))
    assert image_header(data).format == "TIFF"


def test_tiff_of_kinds_that_are_not_read() -> None:
    grey = smooth(9, 9)[..., 0]
    for picture, words in [
        (Image.fromarray(grey.astype(np.float32)), "16 bits"),
        (Image.fromarray(grey.astype(np.int32)), "16 bits"),
    ]:
        with pytest.raises(ImageError, match=words) as caught:
            decode_image(encode(picture, "TIFF"))
        assert "damaged" not in str(caught.value)
    for tags, words in [({254: 1}, "raw files of cameras"), ({}, "compression 50000")]:
        options: dict[str, Any] = {"tiffinfo": tags} if tags else {"compression": "zstd"}
        with pytest.raises(ImageError, match=words):
            decode_image(encode(Image.fromarray(grey), "TIFF", **options))
    huge = bytearray(encode(Image.fromarray(grey), "TIFF"))
    (start,) = struct.unpack_from("<I", huge, 4)
    for entry in range(start + 2, start + 26, 12):
        struct.pack_into("<HHII", huge, entry, struct.unpack_from("<H", huge, entry)[0], 4, 1, 13300)
    with pytest.raises(ImageError, match="13300 x 13300"):
        decode_image(bytes(huge))


def test_avif() -> None:
    pixels = smooth(24, 40)
    for data in (
        encode(pixels, "AVIF", quality=95, subsampling="4:4:4"),
        encode(
            Image.fromarray(pixels), "AVIF", quality=95, save_all=True, append_images=[Image.fromarray(pixels[::-1])]
        ),
    ):
        assert image_header(data).format == "AVIF"
        assert np.abs(decode_image(data).astype(int) - pixels).max() <= LOSSY_TOLERANCE
        with pytest.raises(ImageError, match="40 x 24 pixels"):
            decode_image(data, limits=Limits(max_pixels=900))
    turned = decode_image(encode(pixels, "AVIF", quality=95, exif=exif(6)[6:]))
    assert np.abs(turned.astype(int) - np.rot90(pixels, -1)).max() <= LOSSY_TOLERANCE
    clear = np.dstack([pixels, np.zeros((24, 40), np.uint8)])
    assert (decode_image(encode(clear, "AVIF")) == 255).all()


def heic(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=95, **options)
    return buffer.getvalue()


def test_heic() -> None:
    pixels = smooth(64, 96)
    data = heic(pixels)
    assert (image_header(data).format, image_header(data).height) == ("HEIC", 64)
    assert np.abs(decode_image(data).astype(int) - pixels).max() <= LOSSY_TOLERANCE
    with pytest.raises(ImageError, match="96 x 64 pixels"):
        decode_image(data, limits=Limits(max_pixels=900))
    clear = np.dstack([pixels, np.zeros((64, 96), np.uint8)])
    assert (decode_image(heic(clear)) == 255).all()


def test_heic_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match="pip install pillow-heif") as caught:
        decode_image(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(100))
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("start", "name"),
    [(b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (b"\xff\x0a\0\0", "JPEG XL"), (b"8BPS", "Photoshop")],
)
def test_other_formats_are_named(start: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=f"not an image .it is a {name} file; JPEG, PNG"):
        decode_image(start + bytes(50))


def test_mutants_are_pixels_or_an_image_error_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    picture = Image.fromarray(noise(24, 40))
    seeds = [encode(picture, "TIFF", compression=c) for c in (None, "packbits", "tiff_lzw", "tiff_deflate", "jpeg")]
    seeds += [encode(picture.convert("1"), "TIFF", compression="group4"), encode(picture.convert("P"), "TIFF")]
    seeds += [
        encode(picture, "TIFF", tiffinfo={322: 16, 323: 16}),
        encode(picture, "AVIF"),
        encode(smooth(9, 9), "AVIF"),
    ]
    if find_spec("pillow_heif"):
        seeds.append(heic(smooth(24, 40)))
    accepted, files = 0, mutants(seeds, 3000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in files:
            try:
                assert decode_image(data, limits=Limits(max_pixels=4_000_000)).dtype == np.uint8
                accepted += 1
            except ImageError:
                continue
    assert 0.05 * len(files) < accepted < 0.95 * len(files)
    assert capfd.readouterr() == ("", "")


# ---- small files that would take long or much --------------------------------------------------------------------


def many_chunks() -> bytes:
    return with_chunks(png(4, 4, 8, 0, bytes(16)), png_chunk(b"tEXt", b"") * 100_001)


def many_scans(number: int, behind: bytes = b"") -> bytes:
    data = encode(smooth(40, 40), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * number + data[-2:] + behind


def many_blocks() -> bytes:
    data = encode(Image.new("P", (9, 9)), "GIF")
    at = 13 + 3 * (2 << (data[10] & 7))
    return data[:at] + b"\x21\xfe" + b"\1a" * 100_001 + b"\0" + data[at:]


BOMBS = {
    "chunks": (many_chunks, "more than 100000 chunks"),
    "scans": (lambda: many_scans(200), "more than 100 scans"),
    "blocks": (many_blocks, "more than 100000 blocks"),
    "steps of a run-length encoding": (lambda: bmp(10000, 10000, 8, b"\0\2\xff\xff", 1, bytes(1024)), "run-length"),
    "ends of lines": (lambda: bmp(10, 10, 8, b"\0\0" * 9000, 1, bytes(1024)), "run-length"),
    "scans of many pixels": (lambda: image_bombs.many_scans(4000, 60), "more than 62 scans"),
    "frames": (image_bombs.SMALL["webp, frames"], "more than 100000 chunks"),
    "strips": (image_bombs.SMALL["tiff, a million strips"], "more than 100000 strips"),
    "a huge tile": (image_bombs.SMALL["tiff, a claim of a huge tile"], "16000 x 16000 pixels cover"),
    "wide tiles": (image_bombs.SMALL["tiff, wide tiles"], "cover many times the picture"),
    "channels": (image_bombs.SMALL["tiff, many channels"], "more than 6 channels"),
    "strips in one place": (image_bombs.SMALL["tiff, strips in one place"], "10000 x 10000 pixels in .* bytes"),
    "a long side": (lambda: png(1_000_001, 1, 1, 0, b""), "a side above the limit"),
    "one colour": (lambda: encode(Image.new("RGB", (4100, 4100)), "WEBP"), "4100 x 4100 pixels in .* bytes"),
}


@pytest.mark.parametrize(("make", "words"), BOMBS.values(), ids=BOMBS)
def test_what_would_take_long_is_refused_and_not_called_damaged(make: Callable[[], bytes], words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        decode_image(make())
    assert "damaged" not in str(caught.value)


def test_a_profile_of_many_elements_takes_no_time() -> None:
    pixels, profile = smooth(9, 9), image_bombs.elements_profile(300_000)
    started = time.process_time()
    assert decode_image(encode(pixels, "PNG", icc_profile=profile)).shape == pixels.shape
    assert time.process_time() - started < 10  # run one by one they take many minutes


def test_what_resembles_a_bomb_is_read() -> None:
    assert decode_image(image_bombs.SMALL["tiff, 33 megapixels of one bit"]()).all()  # an empty page, say
    plain = decode_image(many_scans(1))
    np.testing.assert_array_equal(decode_image(many_scans(1, behind=b"\xff\xda\0\2" * 200)), plain)  # a video, say
    flat = encode(Image.new("RGB", (3900, 3900)), "WEBP")
    assert decode_image(flat).shape == (3900, 3900, 3)
    assert decode_image(encode(Image.new("1", (9000, 9000)), "PNG")).shape == (9000, 9000, 3)  # 81 million pixels
