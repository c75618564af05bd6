"""Finds images that show nearly the same: re-encoded, resized, shifted by a pixel, or mirrored.

Two images are candidates when their perceptual hashes are close, and near-duplicates when their pixels then agree.
N images, P pairs, H x W pixels, C channels.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from noisy_student.core.errors import UserError
from noisy_student.store.selection import Selection

TRAINING = ("labeled", "pool")
FREQUENCIES = 5  # the lowest ones in each direction
HASH = (FREQUENCIES + 1) ** 2 - 1  # numbers in a perceptual hash
RADIUS = 0.1  # between the hashes of candidates; 99 of 100 shifted or re-encoded images are within 0.07
LEADING = 16  # principal components that the search goes by
ROUNDING = 1e-6  # of half a squared distance, at most
POINTS_AT_ONCE = 1024  # images that are compared with as many others at once
PAIRS_AT_ONCE = 65_536  # pairs whose full distances are computed at once
THUMBNAIL_SIDE = 32  # pixels of the thumbnails that are compared
BATCH_BYTES = 2_000_000  # of images or pairs at once: what stays in the cache
MAX_PAIRS = 5_000_000  # pairs of candidates
BLURS = ((1, 4, 1), (1, 2, 1), (1, 1, 1))  # an image that was made smaller and larger again is like a blurred one
SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]  # pixels
HOPELESS = 0.15  # a pair whose agreement is this far below the threshold is not compared with blurred images

Box = tuple[np.ndarray, np.ndarray]  # the lowest and the highest corner of each of n boxes, float32 (K,n)


def near_duplicates(images: Any, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows int64 (P,2), the first below the second, and how far their pixels agree, float32 (P,).

    `images` are uint8 (N,H,W,C) or anything that gives such for a slice or an array of rows. The agreement is the
    correlation of gray values: the highest over shifts by a pixel, blurs of the sharper image, and mirroring. It is at
    least `threshold` for each pair.
    """
    batch = max(1, BATCH_BYTES // max(1, images[:1].nbytes))
    hashes = np.empty((len(images), HASH), np.float32)
    for start in range(0, len(images), batch):
        hashes[start : start + batch] = perceptual_hash(images[start : start + batch])
    pairs = close_pairs(hashes, RADIUS)
    agreements = [
        agreement(images[part[:, 0]], images[part[:, 1]], threshold)
        for part in (pairs[start : start + batch] for start in range(0, len(pairs), batch))
    ]
    found = np.concatenate(agreements) if agreements else np.empty(0, np.float32)
    return pairs[found >= threshold], found[found >= threshold]


def perceptual_hash(images: np.ndarray) -> np.ndarray:
    """Amplitudes of the lowest frequencies, float32 (N,HASH), of length 1: the same for a shifted or mirrored image.

    `images` uint8 (N,H,W,C). A window fades out the border, which a shift changes. The square root lets weak
    frequencies count. The amplitudes of the two mirrored directions are added.
    """
    gray = _gray(images)
    gray -= gray.mean(axis=(1, 2), keepdims=True)
    rows, columns = (_waves(size) for size in gray.shape[1:])
    half = np.tensordot(gray, columns, axes=(2, 1))  # (N,H,W) -> (N,H,F)
    amplitudes = np.abs(np.einsum("uh,nhv->nuv", rows, half, optimize=True))
    both = np.sqrt(amplitudes + amplitudes[:, ::-1])[:, FREQUENCIES:, FREQUENCIES:].reshape(len(images), -1)[:, 1:]
    return both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-3)


def close_pairs(hashes: np.ndarray, radius: float) -> np.ndarray:
    """Pairs of rows int64 (P,2), rising, whose `hashes` float32 (N,D) are within `radius`.

    A distance in the leading principal components is never larger than in all, so few pairs need the full distance.
    """
    pairs, many = np.empty((MAX_PAIRS, 2), np.int64), 0  # takes no memory until it is filled
    for candidates in _candidates(_leading(hashes), radius):
        close = candidates[_distances(hashes, candidates) <= radius]
        if many + len(close) > MAX_PAIRS:
            raise UserError(
                f"more than {MAX_PAIRS:,} pairs of images may be near-duplicates, such as frames of a video; "
                "remove some of them, or set data.near_duplicates to null"
            )
        pairs[many : many + len(close)] = np.sort(close, axis=1)
        many += len(close)
    return pairs[np.lexsort((pairs[:many, 1], pairs[:many, 0]))]


def _leading(hashes: np.ndarray) -> np.ndarray:
    """The LEADING principal components of `hashes` float32 (N,D), as points float32 (K,N)."""
    mean = hashes.mean(axis=0, dtype=np.float64).astype(np.float32)
    components = np.linalg.eigh(hashes.T @ hashes - len(hashes) * np.outer(mean, mean))[1][:, : -LEADING - 1 : -1]
    return components.T @ hashes.T - (mean @ components)[:, None]


def _distances(hashes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Distances float32 (P,) between the `hashes` float32 (N,D) of `pairs` of rows int64 (P,2)."""
    parts = np.array_split(pairs, len(pairs) // PAIRS_AT_ONCE + 1)
    return np.concatenate([np.linalg.norm(hashes[part[:, 0]] - hashes[part[:, 1]], axis=1) for part in parts])


def _candidates(points: np.ndarray, radius: float) -> Iterator[np.ndarray]:
    """All pairs of `points` float32 (K,N) within `radius`, with a small tolerance: parts int64 (P,2), each pair once.

    The points are in blocks of neighbors. Two blocks whose boxes are farther apart than `radius` need no look. Smaller
    blocks, as in a tree, save less than they cost: with so many components their boxes stay wide.
    """
    order = _neighbors_together(points, np.arange(points.shape[1]))
    starts = np.arange(0, len(order), POINTS_AT_ONCE)
    blocks = [points.take(order[start : start + POINTS_AT_ONCE], axis=1) for start in starts]
    lows, highs = (np.hstack(bounds) for bounds in zip(*map(_box, blocks), strict=True))
    for here, block in enumerate(blocks):
        for there in here + _near((lows[:, here:], highs[:, here:]), _box(block), radius):
            first, second = _between(block, blocks[there], radius)
            pairs = np.stack([first + starts[here], second + starts[there]], axis=1)
            yield order[pairs[pairs[:, 0] < pairs[:, 1]]]


def _neighbors_together(points: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The numbers `chosen` int64 (n,) of `points` float32 (K,N), so ordered that each POINTS_AT_ONCE lie together."""
    if len(chosen) <= POINTS_AT_ONCE:
        return chosen
    half = -(-len(chosen) // POINTS_AT_ONCE) // 2 * POINTS_AT_ONCE
    widest = points.take(chosen, axis=1).var(axis=1).argmax()
    halves = np.split(chosen[np.argpartition(points[widest, chosen], half)], [half])
    return np.concatenate([_neighbors_together(points, each) for each in halves])


def _between(left: np.ndarray, right: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs like those of `_within`. Only points that are near the box of the others are compared."""
    columns = _near((right, right), _box(left), radius)
    rows = _near((left, left), _box(right.take(columns, axis=1)), radius) if len(columns) else columns
    first, second = _within(left.take(rows, axis=1), right.take(columns, axis=1), radius)
    return rows[first], columns[second]


def _box(points: np.ndarray) -> Box:
    """The box around `points` float32 (K,n)."""
    return points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)


def _near(boxes: Box, box: Box, radius: float) -> np.ndarray:
    """Which of n `boxes` are within `radius` of one `box`, with a small tolerance: int64 (P,). A point is a box too."""
    gaps = np.maximum(np.maximum(boxes[0] - box[1], box[0] - boxes[1]), 0)
    return np.flatnonzero((gaps**2).sum(axis=0) <= radius**2 + 2 * ROUNDING)


def _within(left: np.ndarray, right: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of columns of `left` (K,n) and `right` (K,m) within `radius`, with a small tolerance: two int64 (P,)."""
    # |a - b|^2 / 2 = |a|^2 / 2 + |b|^2 / 2 - ab, as one product of matrices
    halves = [(each**2).sum(axis=0, keepdims=True) / 2 for each in (left, right)]
    ones = [np.ones_like(each) for each in halves]
    products = np.vstack([left, -halves[0], ones[0]]).T @ np.vstack([right, ones[1], -halves[1]])
    return np.divmod(np.flatnonzero(products >= -(radius**2) / 2 - ROUNDING), right.shape[1])


def agreement(first: np.ndarray, second: np.ndarray, threshold: float) -> np.ndarray:
    """How far pairs of images agree, as `near_duplicates` says: float32 (P,), exact where it is near `threshold`."""
    a, b = _thumbnails(first), _thumbnails(second)
    mirrored = b[:, :, ::-1]
    straight, turned = _correlation(a, b), _correlation(a, mirrored)
    b = np.where((turned > straight)[:, None, None], mirrored, b)
    best = np.maximum(straight, turned)
    unsure = (best < threshold) & (best > threshold - HOPELESS)
    for blur in BLURS:
        for x, y in ((_blurred(a[unsure], blur), b[unsure]), (a[unsure], _blurred(b[unsure], blur))):
            best[unsure] = np.maximum(best[unsure], _correlation(x, y))
    return best


def leaks(images: Selection, rows: dict[str, np.ndarray], threshold: float) -> dict[int, tuple[int, float]]:
    """The rows of labeled and pool images to drop, each with the row that it resembles and their agreement.

    `rows` are those of each split. An image is dropped if it resembles one of test, validation or calibration; and of
    pool images that resemble one another all but the first are dropped. Raises `UserError` as `close_pairs`.
    """
    used = np.unique(np.concatenate(list(rows.values())))
    pairs, agreements = near_duplicates(images.at(used), threshold)
    return taken_out(used[pairs], agreements, rows)


def taken_out(pairs: np.ndarray, agreements: np.ndarray, rows: dict[str, np.ndarray]) -> dict[int, tuple[int, float]]:
    """Like `leaks`, from `pairs` int64 (P,2) of near-duplicate rows and their `agreements` (P,)."""
    split_of = {row: name for name, each in rows.items() for row in each[np.isin(each, pairs)].tolist()}
    found = [(*pair, float(agreement)) for pair, agreement in zip(pairs.tolist(), agreements, strict=True)]
    gone: dict[int, tuple[int, float]] = {}
    for first, second, agreement in found:
        for row, like in ((first, second), (second, first)):
            if split_of[row] in TRAINING and split_of[like] not in TRAINING:
                gone[row] = like, agreement
    for first, second, agreement in found:
        if split_of[first] == split_of[second] == "pool" and first not in gone and second not in gone:
            gone[second] = first, agreement
    return gone


def _waves(size: int) -> np.ndarray:
    """Windowed waves complex64 (F,size) of the frequencies from -FREQUENCIES to FREQUENCIES."""
    frequencies = np.arange(-FREQUENCIES, FREQUENCIES + 1)
    waves = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(size)) / size)
    return (waves * np.hanning(size + 2)[1:-1]).astype(np.complex64)


def _gray(images: np.ndarray) -> np.ndarray:
    """Gray values float32 (N,H,W) of uint8 (N,H,W,C)."""
    channels = np.moveaxis(images, 3, 0)
    # five times as fast as mean()
    return sum(channel.astype(np.float32) for channel in channels) / np.float32(len(channels))


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Gray values float32 (N,h,w) of which no side has more than THUMBNAIL_SIDE pixels."""
    rows, columns = (_shrinking(size, min(size, THUMBNAIL_SIDE)) for size in images.shape[1:3])
    return rows @ _gray(images) @ columns.T


@lru_cache
def _shrinking(size: int, side: int) -> np.ndarray:
    """What share each of `size` pixels has in each of `side` larger ones, float32 (side,size); rows sum to 1."""
    edges = np.linspace(0, size, side + 1)
    shared = np.minimum(edges[1:, None], np.arange(1, size + 1)) - np.maximum(edges[:-1, None], np.arange(size))
    shares = np.maximum(shared, 0)
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def _blurred(images: np.ndarray, weights: tuple[int, int, int]) -> np.ndarray:
    """`images` (N,H,W) with each pixel averaged with its neighbors in either direction."""
    for axis in (1, 2):
        padded = np.pad(images, [(0, 0), *((1, 1) if axis == each else (0, 0) for each in (1, 2))], mode="edge")
        size = images.shape[axis]
        parts = [weight * padded.take(range(at, at + size), axis) for at, weight in enumerate(weights)]
        images = np.sum(parts, axis=0) / np.float32(sum(weights))
    return images


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of gray values (P,H,W), at the best of `SHIFTS`: float32 (P,)."""
    height, width = first.shape[1:]
    best = np.full(len(first), -1, np.float32)
    for down, right in SHIFTS:
        x = first[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
        y = second[:, max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
        x, y = (part.reshape(len(part), part.shape[1] * part.shape[2]) for part in (x, y))
        x, y = (part - part.mean(axis=1, keepdims=True) for part in (x, y))
        lengths = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        best = np.maximum(best, (x * y).sum(axis=1) / np.maximum(lengths, 1e-3))
    return best
