"""Decodes one image file into pixels: complete, upright, gray or color, at one size; or says why it cannot.

N images, H x W pixels.
"""

import errno
import importlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from pydantic import Field

from noisy_student.core.config import ParamsModel
from noisy_student.core.errors import one_line

# an allow-list: Pillow would run Ghostscript for EPS
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
MORE_PLUGINS = ("Avif", "Jpeg2K", "WebP")  # of Pillow's that `Image.preinit` leaves out; TIFF's is imported above
HEIF = "HEIF"  # of telephones (HEIC), read by pillow-heif
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # at byte 8 of a file
MAX_BYTES = 500_000_000  # of a file
EXIF_ELSEWHERE = ("TIFF", "PNG")  # formats whose EXIF data Pillow may not read when it opens the file
OPAQUE = {"L", "RGB"}  # modes that are taken as they are
CONVERTED = {"1", "P", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}  # that are opaque unless they name a transparent color
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE, TILE_WIDTH, TILE_LENGTH = 258, 262, 281, 322, 323  # tags of TIFF
SAMPLE_FORMAT, SIGNED, PLANAR, SEPARATE = 339, 2, 284, 2  # of TIFF
J2K_SIZES, J2K_SSIZ = b"\xff\x4f\xff\x51", 42  # of JPEG 2000: how the part with sizes begins, and where Ssiz is in it
J2K_SIGNED = 0x80
WHITE_IS_ZERO = 0
ORIENTATION = 0x0112  # of EXIF
HOW_RESIZED = Image.Resampling.BILINEAR
REDUCING_GAP = (
    3.0  # first shrink a large image by an integer factor: three times as fast, at most one gray level different
)
WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
DEEP = {"I;16", "I;16L", "I;16B", "I;16N", "I"}  # gray, 16 bits a pixel; Pillow names some of them I
WHITE = 2**16 - 1  # of 16-bit values
DARK = 64  # what 14-bit values do not exceed once they lost their lower 8 of 16 bits


class Preparation(ParamsModel):
    """How an image of any size and kind becomes an input of the models."""

    image_size: int = Field(ge=4, le=1024)  # pixels a side
    resize: Literal["crop", "pad"]  # crop: the middle square; pad: all of it, with `background` beside it
    background: int = Field(default=0, ge=0, le=255)  # gray value behind transparent pixels and beside what is padded
    max_megapixels: float = Field(default=50.0, gt=0, le=1000)  # 10^6 pixels; a larger image is not decoded
    white: int | None = Field(default=None, ge=1, le=WHITE)  # value of white in 16-bit gray files that do not tell it;
    # null: by the largest value of a user's files, such as 4095 where it has 12 bits


class BadImage(Exception):
    """Why an image cannot be used, in a few words."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image as an input of the models, and the size of its file's image."""

    pixels: np.ndarray  # uint8 (image_size,image_size,3), or (image_size,image_size,1) of a file that is all gray
    width: int  # pixels of the file's image, upright
    height: int
    largest: int = 0  # value of a 16-bit gray file that does not tell its white; 0 for any other


def read_inside(root: str, path: str) -> bytes:
    """The bytes of the regular file at `path` below `root`, a real path. Raises `BadImage` for anything else."""
    if not path or "\0" in path or path.startswith("/") or ".." in path.split("/"):
        raise BadImage("the path is not one below the folder")
    folder, _, name = path.rpartition("/")
    try:
        descriptor = _open(root, f"{_real_folder(root, folder)}/{name}")
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise BadImage("a device or a pipe, no file")
            if found.st_size > MAX_BYTES:
                raise BadImage(f"larger than {MAX_BYTES:,} bytes")
            content = os.read(descriptor, found.st_size + 1)
            while len(content) < found.st_size and (more := os.read(descriptor, found.st_size)):
                content += more  # a network's folder may give less at once than was asked for
            return content
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from None


@lru_cache(maxsize=1024)
def _real_folder(root: str, folder: str) -> str:
    return _inside(root, os.path.join(root, folder))


def _inside(root: str, path: str) -> str:
    """`path` without links."""
    full = os.path.realpath(path, strict=True)
    if not f"{full}/".startswith(f"{root.rstrip('/')}/"):
        raise BadImage("a link leads out of the folder")
    return full


def _open(root: str, path: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe that has no writer would wait for ever
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return os.open(_inside(root, path), flags)  # a link


def decode(content: bytes, how: Preparation) -> Decoded:
    """Decode the bytes of a file. Raises `BadImage` for an image that is incomplete or of an unknown kind."""
    if not content:
        raise BadImage("empty")
    try:
        with _without_pillows_limit():
            image = Image.open(io.BytesIO(content), formats=formats())
            for width, height in (image.size, _tile(image)):
                if width * height > how.max_megapixels * 1e6:
                    raise BadImage(f"larger than data.max_megapixels: {width} x {height}")
            bits, signed = _values(image, content)
            _check_values(image, bits, signed)
            image.load()
        told = _told_white(image, bits) if image.mode in DEEP else WHITE
        largest = 0 if told else int(np.asarray(image).max())
        _check_deep_color(image, bits)
        plain = _upright(image, _plain(image, how, told or how.white or WHITE))
    except BadImage:
        raise
    except UnidentifiedImageError:
        if content[4:8] == b"ftyp" and content[8:12] in HEIC_BRANDS and HEIF not in formats():
            raise BadImage("a HEIC file, which only pillow-heif reads: pip install pillow-heif") from None
        raise BadImage("no image of a known format") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise BadImage(f"cannot be decoded: {one_line(error) or type(error).__name__}") from None
    width, height = plain.size
    pixels = np.frombuffer(_resized(plain, how).tobytes(), np.uint8).reshape(how.image_size, how.image_size, -1)
    return Decoded(pixels, width, height, largest)


@cache
def formats() -> tuple[str, ...]:
    """The formats that are read, whose decoders are loaded. HEIC is among them where pillow-heif is installed."""
    Image.preinit()
    for plugin in MORE_PLUGINS:
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener(thumbnails=False)
    pillow_heif.options.DECODE_THREADS = 1  # the files are decoded on all cores as it is
    return (*FORMATS, HEIF)


def decoders() -> list[str]:
    """What decides which files are read, and their pixels, beside this code: formats and versions."""
    packages = ["pillow", "pillow-heif"] if HEIF in formats() else ["pillow"]
    return [*formats(), *map(version, packages)]


def white_of(largest: int) -> int:
    """The value of white in 16-bit gray files whose `largest` value that is: all bits of the fewest that hold it."""
    return min(WHITE, max(255, 2 ** int(largest).bit_length() - 1))


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Switch off Pillow's limit within the block: it only warns up to twice its number, and `max_megapixels` decides
    here."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def is_gray(images: np.ndarray) -> np.ndarray:
    """Which of the `images` (N,H,W,3) have three channels that are the same: bool (N,)."""
    return ((images[..., 0] == images[..., 1]) & (images[..., 0] == images[..., 2])).all(axis=(1, 2))


def decode_file(root: Path, path: str, how: Preparation, channels: int) -> np.ndarray:
    """The image in a file, uint8 (H,W,C), for a model with that many channels. Raises `BadImage`."""
    return with_channels(decode(read_inside(os.path.realpath(root), path), how).pixels, channels)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """`pixels` (H,W,1) or (H,W,3) with 3 channels, or as gray values with 1."""
    colors = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return colors if channels == 3 else to_gray(colors)


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """Gray values uint8 (...,1) of colors (...,3), weighed as Pillow does (ITU-R 601-2); gray stays what it is."""
    weighed = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[..., None]


def _upright(image: Image.Image, plain: Image.Image) -> Image.Image:
    """`plain`, made of the `image` of a file, turned as the file's EXIF data says."""
    if "exif" not in image.info and image.format not in EXIF_ELSEWHERE:
        return plain
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        if orientation == 1:
            return plain
        plain.getexif()[ORIENTATION] = orientation
        return ImageOps.exif_transpose(plain)
    except Exception as error:
        raise BadImage(f"its EXIF cannot be read: {one_line(error)}") from None


def _check_values(image: Image.Image, bits: int, signed: bool) -> None:
    """Raise `BadImage` for values that Pillow reads wrongly: below 0, or of 16 bits with each color by itself."""
    tags = _tags(image)
    if signed:
        raise BadImage("values below 0 have no known range; save them without a sign")
    if tags.get(PLANAR) == SEPARATE and bits == 16 and len(tags.get(BITS_PER_SAMPLE, ())) > 1:
        raise BadImage("16 bits a value, and each color by itself; save it with the colors of a pixel side by side")


def _values(image: Image.Image, content: bytes) -> tuple[int, bool]:
    """Bits of a value in the file, and whether it has a sign, as its header says; (8, False) where it does not say."""
    if image.format == "JPEG2000":
        at = content.find(J2K_SIZES)  # ISO 15444-1, A.5.1: Ssiz tells both of the first component
        told = content[at + J2K_SSIZ] if at >= 0 else 7
        return (told & ~J2K_SIGNED) + 1, bool(told & J2K_SIGNED)
    return _bits(image), SIGNED in _tags(image).get(SAMPLE_FORMAT, ())


def _bits(image: Image.Image) -> int:
    """Bits of a value in a file that is no JPEG 2000."""
    tile = image.tile[0] if getattr(image, "tile", []) else None  # type: ignore[attr-defined]
    arguments = tile[3] if tile else ""
    if image.format == "PPM":
        largest = arguments[1] if isinstance(arguments, tuple) else WHITE if arguments == "I;16B" else 255
        return max(8, int(largest).bit_length())
    if image.format == "PNG":
        return 16 if ";16" in str(arguments) else 8
    return int(max(_tags(image).get(BITS_PER_SAMPLE, (image.info.get("bit_depth") or 8,))))


def _check_deep_color(image: Image.Image, bits: int) -> None:
    """Raise `BadImage` for color or transparency of 16 bits with values of fewer, of which Pillow keeps the upper 8."""
    if image.mode in DEEP or bits < 16:
        return
    bands = zip(image.getbands(), image.split(), strict=True)
    if max(np.asarray(band).max() for name, band in bands if name not in "Aa") <= DARK:
        raise BadImage("nearly black, for it has values of 14 bits or fewer in 16, which only gray files may have")


def _tile(image: Image.Image) -> tuple[int, int]:
    """Width and height of a tile in a tiled TIFF. Whole tiles are decoded, and one may be larger than the image."""
    tags = _tags(image)
    return int(tags.get(TILE_WIDTH, 0)), int(tags.get(TILE_LENGTH, 0))


def _plain(image: Image.Image, how: Preparation, white: int) -> Image.Image:
    """The image in mode L or RGB, 8 bits a channel. `white` is the value of white in a gray one of more bits."""
    background = how.background
    if image.mode in DEEP:  # before transparency, because Pillow would clip these values on the way; it is rare in them
        return Image.fromarray(_rescaled(image, how, white))
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        under = Image.new("RGBA", layer.size, (background,) * 3 + (255,))
        return Image.alpha_composite(under, layer).convert("RGB")
    if image.mode in OPAQUE:
        return image
    if image.mode in CONVERTED:
        return image.convert("RGB")
    raise BadImage(f"pixels of mode {image.mode} have no known range")


def _rescaled(image: Image.Image, how: Preparation, white: int) -> np.ndarray:
    """The gray values of an image of more than 8 bits, as 8-bit ones."""
    values = np.asarray(image).astype(np.uint32)
    gray = ((np.minimum(values, white) * 255 + white // 2) // white).astype(np.uint8)
    if _tags(image).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        gray = 255 - gray
    return np.where(values == image.info.get("transparency", -1), np.uint8(how.background), gray)


def _told_white(image: Image.Image, bits: int) -> int | None:
    """The value of white in a gray image of more than 8 bits, as its file tells it; None where it does not.

    16 bits tell nothing, since cameras write 12 into them. Pillow scales fewer bits to 16, but of a TIFF. A TIFF may
    name its largest value, which is white if it is all bits of some number and no value is larger.
    """
    if bits > 16:
        raise BadImage("gray values of more than 16 bits have no known range")
    if bits < 16:
        return 2**bits - 1 if image.format == "TIFF" else WHITE
    told = _tags(image).get(MAX_SAMPLE_VALUE) or 0
    white = int(told[0] if isinstance(told, tuple) else told)
    return white if 0 < white < WHITE and white == white_of(white) and white >= np.asarray(image).max() else None


def _tags(image: Image.Image) -> Any:
    return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}


def _resized(image: Image.Image, how: Preparation) -> Image.Image:
    size, (width, height) = how.image_size, image.size
    if (width, height) == (size, size):
        return image
    if how.resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), HOW_RESIZED, (left, top, left + side, top + side), REDUCING_GAP)
    scale = size / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    frame: Any = how.background if image.mode == "L" else (how.background,) * 3
    padded = Image.new(image.mode, (size, size), frame)
    padded.paste(image.resize(inner, HOW_RESIZED, None, REDUCING_GAP), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return padded
