import gzip
import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from noisy_student.store import decoding
from noisy_student.store.decoding import BadImage, Preparation, decode, formats, is_gray, read_inside, to_gray, white_of

formats()  # registers HEIF, in which the tests below write
HOW = Preparation(image_size=8, resize="crop", background=100, max_megapixels=1)
GRADIENT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size whose pixels are a few bytes that promise more."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def tiled_tiff(side: int) -> bytes:
    """A TIFF of 64 x 64 gray pixels in tiles of `side` x `side`, of which there is next to nothing."""
    tags = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: 20}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 28) + bytes(20) + struct.pack("<H", len(tags)) + fields + bytes(4)


COLORS = Image.fromarray(np.stack([GRADIENT, GRADIENT.T, 255 - GRADIENT], axis=2))
BAD = {
    "empty": b"",
    "text": b"not an image",
    "zeros": bytes(1000),
    "PDF": b"%PDF-1.4 ...",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "ICO": encoded(COLORS, "ICO"),
    "wide bomb": png_header(200_000, 200_000),
    "bomb between Pillow's limits": png_header(12_000, 12_000),
    "just too large": png_header(1001, 1000),
    "no pixels": png_header(8, 8)[:33],
    "too few pixels": png_header(900, 900),
    "floats": encoded(Image.fromarray(GRADIENT.astype(np.float32)), "TIFF"),
    "32 bits": encoded(Image.fromarray(GRADIENT.astype(np.int32) * 10**6), "TIFF"),
}
for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "HEIF"):
    whole = encoded(COLORS.resize((64, 64)), kind)
    for share in (0.02, 0.1, 0.25, 0.5, 0.75, 0.9):
        BAD[f"{kind} cut at {share}"] = whole[: int(len(whole) * share)]
png, jpeg = (encoded(COLORS.resize((64, 64)), kind) for kind in ("PNG", "JPEG"))
pixels, frame = png.index(b"IDAT") + 20, jpeg.index(b"\xff\xc0") + 5
BAD |= {
    "signature alone": png[:8],
    "another checksum": png[:pixels] + bytes([png[pixels] ^ 255]) + png[pixels + 1 :],
    "gzipped": gzip.compress(png),
    "pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n",
    "HTML": b"<!DOCTYPE html><html></html>",
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(100),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50),
    "PSD": b"8BPS\0\1" + bytes(100),
    "ZIP": b"PK\3\4" + bytes(100),
    "fork of a Mac's file": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100),
    "TGA": encoded(COLORS, "TGA"),
    "GIF without a frame": encoded(COLORS, "GIF")[:13] + b";",
    "JPEG without a frame": b"\xff\xd8\xff\xd9",
    "JPEG of no size": jpeg[:frame] + bytes(4) + jpeg[frame + 4 :],
    "JPEG bomb": jpeg[:frame] + b"\xff" * 4 + jpeg[frame + 4 :],
    "TIFF without a directory": b"II*\0\x08\0\0\0\0\0\0\0",
    "tiled bomb": tiled_tiff(40_000),
    "BMP bomb": b"BM" + struct.pack("<IHHIIiiHH", 1000, 0, 0, 54, 40, 60_000, 60_000, 1, 24) + bytes(124),
    "GIF bomb": b"GIF89a\xff\xff\xff\xff\xf7\0\0" + bytes(768) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\1\0\0;",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_what_is_no_whole_image_of_a_known_kind_is_bad(content):
    with pytest.raises(BadImage) as bad:
        decode(content, HOW)
    assert str(bad.value)
    assert "\n" not in str(bad.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_kind_that_is_allowed_is_read(kind):
    lossless = {"quality": 100, "lossless": True} if kind == "WEBP" else {}
    image = decode(encoded(COLORS, kind, **lossless), HOW)
    assert image.pixels.shape == (8, 8, 3)
    assert image.pixels.dtype == np.uint8
    assert (image.width, image.height) == (8, 8)
    if kind not in ("JPEG", "GIF"):
        assert np.array_equal(image.pixels, np.asarray(COLORS))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JPEG2000", "PPM"])
def test_files_of_telephones_and_scanners_are_read_with_their_colors(kind):
    """Smooth colors, which a lossy format keeps within a few levels."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    smooth = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)], 2)
    how = HOW.model_copy(update={"image_size": 64})
    image = decode(encoded(Image.fromarray(smooth), kind, **({"quality": 95} if kind in ("HEIF", "AVIF") else {})), how)
    assert (image.width, image.height) == (64, 64)
    assert np.abs(image.pixels.astype(int) - smooth).mean() < 4


def test_heic_without_its_library_names_it(monkeypatch):
    content = encoded(COLORS.resize((64, 64)), "HEIF")
    assert content[4:12] == b"ftypheic"
    monkeypatch.setattr(decoding, "formats", lambda: decoding.FORMATS)
    with pytest.raises(BadImage, match="a HEIC file, which only pillow-heif reads: pip install pillow-heif"):
        decode(content, HOW)


def test_a_twelve_bit_graymap_tells_its_white():
    content = b"P5 8 8 4095\n" + (GRADIENT.astype(np.uint16) * 16).astype(">u2").tobytes()
    assert np.abs(decode(content, HOW).pixels[..., 0].astype(int) - GRADIENT).max() <= 1


def test_a_deep_file_that_tells_no_white_has_that_of_the_preparation():
    values = GRADIENT.astype(np.uint16) * 16  # 12 bits in files of 16
    twelve = HOW.model_copy(update={"white": 4095})
    for kind in ("PNG", "TIFF"):
        content = encoded(Image.fromarray(values), kind)
        assert decode(content, HOW).largest == values.max()
        assert decode(content, HOW).pixels.max() <= 16
        assert np.abs(decode(content, twelve).pixels[..., 0].astype(int) - GRADIENT).max() <= 1
    told = encoded(Image.fromarray(values), "TIFF", tiffinfo={281: 4095})  # MaxSampleValue
    assert np.abs(decode(told, HOW).pixels[..., 0].astype(int) - GRADIENT).max() <= 1
    assert decode(told, HOW).largest == decode(encoded(COLORS), HOW).largest == 0
    brighter = encoded(Image.fromarray(np.full((8, 8), 5000, np.uint16)))
    assert (decode(brighter, twelve).pixels == 255).all()


@pytest.mark.parametrize("told", [0, 1, 2000, 4000, 65535])  # less than a value, no number of bits, no news
def test_a_largest_value_that_cannot_be_white_is_not_taken_for_it(told):
    values = GRADIENT.astype(np.uint16) * 16
    content = encoded(Image.fromarray(values), "TIFF", tiffinfo={281: told})
    assert decode(content, HOW).largest == values.max()
    found = decode(content, HOW.model_copy(update={"white": 4095})).pixels[..., 0]
    assert np.abs(found.astype(int) - GRADIENT).max() <= 1


def test_twelve_bits_in_a_file_of_sixteen_tell_no_white_in_any_format():
    values = GRADIENT.astype(np.uint16) * 16
    graymap = b"P5 8 8 65535\n" + values.astype(">u2").tobytes()
    for content in (graymap, encoded(Image.fromarray(values), "JPEG2000", irreversible=False)):
        assert decode(content, HOW).largest == values.max()
        found = decode(content, HOW.model_copy(update={"white": 4095})).pixels[..., 0]
        assert np.abs(found.astype(int) - GRADIENT).max() <= 1


def test_a_turned_deep_image_keeps_its_range():
    values = np.tile(np.arange(8, dtype=np.uint16) * 500, (8, 1))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    found = decode(encoded(Image.fromarray(values), exif=exif), HOW.model_copy(update={"white": 4095})).pixels
    assert found[0, :, 0].tolist() == (np.arange(8)[::-1] * 500 * 255 / 4095).round().astype(int).tolist()


TWELVE = GRADIENT.astype(np.uint16) * 16
BOX = b"\xff\x4f\xff\x51"


def plain_map(kind: str, values: np.ndarray, largest: int) -> bytes:
    return f"{kind} 8 8 {largest}\n{' '.join(map(str, values.ravel()))}".encode()


def of_precision(content: bytes, precision: int) -> bytes:
    """A JPEG 2000 file whose values have that many bits, by its header; with a sign where it is negative."""
    at = content.index(BOX) + 42
    count = struct.unpack(">H", content[at - 2 : at])[0]
    said = abs(precision) - 1 | (0x80 if precision < 0 else 0)
    parts = bytearray(content)
    parts[at : at + 3 * count : 3] = bytes([said] * count)
    return bytes(parts)


def test_values_below_zero_are_no_image():
    wide = Image.fromarray(np.full((8, 8), 100, np.uint16))
    narrow = Image.fromarray(GRADIENT)
    deep = encoded(Image.fromarray(TWELVE), "JPEG2000", irreversible=False)
    for content in (*(encoded(each, "TIFF", tiffinfo={339: 2}) for each in (wide, narrow)), of_precision(deep, -16)):
        with pytest.raises(BadImage, match="values below 0 have no known range; save them without a sign"):
            decode(content, HOW)


def test_sixteen_bits_of_each_color_by_itself_are_refused():
    """Pillow mixes their bytes up."""
    tags = {256: 4, 257: 4, 258: 16, 259: 1, 262: 2, 273: 200, 277: 3, 278: 4, 279: 32, 284: 2}
    fields = b"".join(
        struct.pack("<HHII", tag, 3, 3, 140) if tag == 258 else struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in tags.items()
    )
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + fields + bytes(4)
    content = content.ljust(140, b"\0") + struct.pack("<HHH", 16, 16, 16)
    with pytest.raises(BadImage, match="each color by itself; save it with the colors of a pixel side by side"):
        decode(content.ljust(400, b"\xff"), HOW)


def test_gray_files_of_text_are_read_as_binary_ones():
    tells = decode(plain_map("P2", TWELVE, 4095), HOW)
    assert np.abs(tells.pixels[..., 0].astype(int) - GRADIENT).max() <= 1
    assert tells.largest == 0
    assert decode(plain_map("P2", TWELVE, 65535), HOW).largest == TWELVE.max()


def test_twelve_bits_that_a_header_tells_need_no_white_of_other_files():
    """Pillow scales them to 16, so another white would be wrong for them."""
    gray = Image.fromarray(np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1)))
    image = decode(encoded(gray, "HEIF", quality=-1), HOW.model_copy(update={"image_size": 64, "white": 4095}))
    assert image.largest == 0
    assert np.abs(image.pixels[0, :, 0].astype(int) - np.linspace(0, 255, 64)).max() < 4


@pytest.mark.parametrize("largest", [4095, 16383])
def test_colors_of_few_bits_in_sixteen_are_refused_in_any_format(largest):
    values = (np.stack([GRADIENT, GRADIENT.T, 255 - GRADIENT], 2).astype(np.uint32) * largest // 255).astype(np.uint16)
    binary = b"P6 8 8 65535\n" + values.astype(">u2").tobytes()
    for content in (deep_png(values), plain_map("P3", values, 65535), binary):
        with pytest.raises(BadImage, match="nearly black"):
            decode(content, HOW)
    told = decode(plain_map("P3", values, largest), HOW)
    assert np.abs(told.pixels.astype(int) - np.asarray(COLORS)).max() <= 1


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel; `values` uint16 (H,W,C), C 2 (gray and alpha) or 3."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("channels", [2, 3])
def test_twelve_bits_of_a_color_file_of_sixteen_are_refused_and_sixteen_are_read(channels):
    values = np.repeat(GRADIENT.astype(np.uint16)[..., None], channels, axis=2)
    values[..., 1:] = 65535 if channels == 2 else values[..., 1:]  # opaque
    whole = values * np.array([257, 1] if channels == 2 else [257], dtype=np.uint16)
    assert np.array_equal(decode(deep_png(whole), HOW).pixels[..., 0], GRADIENT)
    dark = values * np.array([16, 1] if channels == 2 else [16], dtype=np.uint16)
    with pytest.raises(
        BadImage, match="nearly black, for it has values of 14 bits or fewer in 16, which only gray files may have"
    ):
        decode(deep_png(dark), HOW)


def test_white_is_all_bits_of_the_fewest_that_hold_the_largest_value():
    assert [white_of(largest) for largest in (1, 255, 256, 4000, 4095, 4096, 65535)] == [
        255,
        255,
        511,
        4095,
        4095,
        8191,
        65535,
    ]


def test_gray_images_are_known_as_such_whatever_mode_they_have():
    gray = Image.fromarray(GRADIENT)
    for image in (gray, gray.convert("RGB"), gray.convert("RGBA"), gray.convert("LA")):
        found = np.broadcast_to(decode(encoded(image), HOW).pixels, (8, 8, 3))
        assert np.array_equal(found[..., 0], GRADIENT)
        colors = decode(encoded(COLORS), HOW).pixels
        assert is_gray(np.stack([found, colors])).tolist() == [True, False]


def test_sixteen_bits_are_rescaled_and_not_cut_off():
    deep = Image.fromarray((GRADIENT.astype(np.uint16)) * 257)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(encoded(deep, kind), HOW).pixels[..., 0], GRADIENT)
    assert np.array_equal(decode(encoded(deep, transparency=5), HOW).pixels[..., 0], GRADIENT)


def test_deep_values_are_read_as_their_file_means_them():
    white = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    tiff = encoded(white, "TIFF")
    bits, photometric = (struct.pack("<HHIH", tag, 3, 1, value) for tag, value in ((258, 16), (262, 1)))
    assert bits in tiff
    assert photometric in tiff
    assert (decode(tiff, HOW).pixels == 255).all()
    assert (decode(tiff.replace(bits, bits[:-2] + b"\x0c\0"), HOW).pixels == 255).all()  # 12 bits
    assert (decode(tiff.replace(photometric, photometric[:-2] + b"\0\0"), HOW).pixels == 0).all()  # white is 0
    assert (decode(encoded(white, transparency=65535), HOW).pixels == 100).all()


def test_transparent_pixels_show_the_background():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (decode(encoded(clear), HOW).pixels == 100).all()
    half = decode(encoded(Image.new("RGBA", (8, 8), (200, 200, 200, 128))), HOW).pixels
    assert np.abs(half.astype(int) - 150).max() <= 1
    palette = Image.new("RGB", (8, 8), (9, 9, 200)).quantize(4)
    clear_one = palette.getpixel((0, 0))
    for kind in ("PNG", "GIF"):
        assert (decode(encoded(palette, kind, transparency=clear_one), HOW).pixels == 100).all()


def test_cmyk_and_palettes_become_colors():
    for kind in ("TIFF", "JPEG"):
        cmyk = decode(encoded(COLORS.convert("CMYK"), kind), HOW).pixels
        assert np.abs(cmyk.astype(int) - np.asarray(COLORS)).mean() < 40
        assert cmyk.std() > 30
    palette = COLORS.quantize(64)
    assert np.array_equal(decode(encoded(palette), HOW).pixels, np.asarray(palette.convert("RGB")))


QUARTERS = np.kron([[250, 170], [90, 10]], np.ones((32, 32))).astype(np.uint8)
TURNS = {  # EXIF's orientations: how the file has what is upright
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: np.transpose,
    6: np.rot90,
    7: lambda upright: np.rot90(upright, 2).T,
    8: lambda upright: np.rot90(upright, 3),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_a_photo_is_turned_as_its_exif_says(kind, orientation):
    """HEIC files are turned by their property irot, which pillow-heif writes for an EXIF given as bytes."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.fromarray(TURNS[orientation](QUARTERS)).convert("RGB")
    content = encoded(turned, kind, exif=exif.tobytes() if kind == "HEIF" else exif)
    found = decode(content, HOW.model_copy(update={"image_size": 64})).pixels[..., 0]
    assert np.abs(found.astype(int) - QUARTERS).mean() < 5


def test_a_broken_exif_or_profile_is_no_traceback():
    broken = encoded(COLORS, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    profile = encoded(COLORS, "JPEG", icc_profile=b"rubbish")
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        assert decode(broken, HOW).pixels.shape == (8, 8, 3)
    assert decode(profile, HOW).pixels.shape == (8, 8, 3)


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(decode(content, HOW).pixels.astype(int) - 10).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (100, 40)])
@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_any_shape_comes_to_the_size(size, resize):
    how = HOW.model_copy(update={"resize": resize})
    assert decode(encoded(Image.new("RGB", size, (9, 9, 9))), how).pixels.shape == (8, 8, 3)


def test_crop_takes_the_middle_and_pad_keeps_all():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    content = encoded(Image.fromarray(wide))
    assert (decode(content, HOW).pixels == 255).all()
    padded = decode(content, HOW.model_copy(update={"resize": "pad"})).pixels
    assert (padded[0] == 100).all()
    assert padded[4, 4, 0] > 200
    assert padded[4, 0, 0] == 0


def test_gray_values_are_those_of_pillow():
    assert np.array_equal(to_gray(np.asarray(COLORS))[..., 0], np.asarray(COLORS.convert("L")))
    gray = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    assert np.array_equal(to_gray(gray)[..., 0], gray[..., 0])


def peak_in_kilobytes() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


BOMBS = {kind: BAD[f"{kind} bomb"] for kind in ("wide", "JPEG", "BMP", "GIF", "tiled")}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be measured anew on Linux alone")
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_within_a_second_and_fifty_megabytes(bomb):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before, started = peak_in_kilobytes(), time.monotonic()
    with pytest.raises(BadImage, match=r"larger than data\.max_megapixels"):
        decode(bomb, HOW)
    assert time.monotonic() - started < 1
    assert peak_in_kilobytes() - before < 50_000


@pytest.fixture
def folder(tmp_path) -> str:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/a.png").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    return str(tmp_path / "in")


def test_files_and_links_inside_are_read(folder):
    os.symlink("deep/a.png", f"{folder}/link")
    assert read_inside(folder, "deep/a.png") == b"inside"
    assert read_inside(folder, "link") == b"inside"


def test_what_may_not_be_read_is_bad(folder):
    os.chmod(f"{folder}/deep/a.png", 0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(BadImage, match="cannot be read: Permission denied"):
            read_inside(folder, "deep/a.png")
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../secret", "deep/../../secret", "deep/../deep/a.png", "a\0b", "out", "door/secret"]
)
def test_nothing_outside_is_read(folder, path):
    os.symlink("../secret", f"{folder}/out")
    os.symlink("..", f"{folder}/door")
    with pytest.raises(BadImage):
        read_inside(folder, path)


def test_what_is_no_file_is_not_read_and_does_not_wait(folder):
    os.mkfifo(f"{folder}/pipe")
    os.symlink("/dev/zero", f"{folder}/zero")
    os.symlink("nowhere", f"{folder}/dangling")
    os.symlink("loop", f"{folder}/loop")
    os.mkdir(f"{folder}/x.jpg")
    for path in ("pipe", "zero", "dangling", "loop", "x.jpg", "missing"):
        with pytest.raises(BadImage) as bad:
            read_inside(folder, path)
        assert str(bad.value)
