"""Small pictures of images, for people: columns of Parquet tables that a page shows.

H x W pixels, C channels.
"""

import io

import numpy as np
from PIL import Image

PICTURE_SIDE = 96  # pixels, at most
QUALITY = 80  # of WebP, 0 to 100


def to_pillow(image: np.ndarray) -> Image.Image:
    """uint8 `image` (H,W,C), of one or three channels, as Pillow has it."""
    return Image.fromarray(image if image.shape[2] == 3 else image[..., 0])


def picture(image: np.ndarray, side: int = PICTURE_SIDE) -> bytes:
    """uint8 `image` (H,W,C), of one or three channels, as a WebP file whose sides have at most `side` pixels."""
    shown = to_pillow(image)
    shown.thumbnail((side, side))
    content = io.BytesIO()
    shown.convert("RGB").save(content, "WEBP", quality=QUALITY)
    return content.getvalue()
