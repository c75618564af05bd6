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
BUCKET = 1024  # images that are compared with one another
TREES = 16  # random trees of buckets; each keeps most pairs of near-duplicates together
PAIRS_AT_ONCE = 65_536  # pairs whose full distances are computed at once
THUMBNAIL_SIDE = 32  # pixels of the thumbnails that are compared
BATCH_BYTES = 2_000_000  # of images or pairs at once: what stays in the cache
MAX_PAIRS, PAIRS_PER_IMAGE = 5_000_000, 10  # pairs of candidates, at most, whichever is more
BLURS = ((1, 4, 1), (1, 2, 1), (1, 1, 1))  # an image that was made smaller and larger again is like a blurred one
SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]  # pixels
TOO_MANY = (
    "more than {:,} pairs of images may be near-duplicates, such as frames of a video; "
    "remove some of them, or set data.near_duplicates to null"
)
HOPELESS = 0.15  # a pair whose agreement is this far below the threshold is not compared with blurred images


def near_duplicates(images: Any, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows int64 (P,2), the first below the second, and how far their pixels agree, float32 (P,).

    `images` are uint8 (N,H,W,C) or anything that gives such for a slice or an array of rows. The agreement is the
    correlation of gray values: the highest over shifts by a pixel, blurs of the sharper image, and mirroring. It is at
    least `threshold` for each pair.
    """
    return agreeing(images, close_pairs(perceptual_hashes(images), RADIUS), threshold)


def perceptual_hashes(images: Any) -> np.ndarray:
    """The hashes float32 (N,HASH) of `images`, read a few at a time."""
    batch = _batch(images)
    hashes = np.empty((len(images), HASH), np.float32)
    for start in range(0, len(images), batch):
        hashes[start : start + batch] = perceptual_hash(images[start : start + batch])
    return hashes


def agreeing(images: Any, pairs: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Of `pairs` of rows int64 (P,2) those that are near-duplicates, and their agreement, as `near_duplicates` says."""
    batch = _batch(images)
    agreements = [
        agreement(images[part[:, 0]], images[part[:, 1]], threshold)
        for part in (pairs[start : start + batch] for start in range(0, len(pairs), batch))
    ]
    found = np.concatenate(agreements) if agreements else np.empty(0, np.float32)
    return pairs[found >= threshold], found[found >= threshold]


def _batch(images: Any) -> int:
    """How many of the `images` to read at once."""
    return max(1, BATCH_BYTES // max(1, images[:1].nbytes))


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
    """Pairs of rows int64 (P,2), rising, whose `hashes` float32 (N,D) are within `radius`: nearly all that there are.

    Only images that share a bucket are compared, so time grows as N log N. A pair that none of TREES trees keeps
    together is missed. Up to BUCKET images share one bucket, and nothing is missed. A distance in the leading principal
    components is never larger than in all, so few pairs need the full distance.
    """
    points, most = _leading(hashes), max(MAX_PAIRS, PAIRS_PER_IMAGE * len(hashes))
    known = np.empty(0, np.int64)  # each pair as one number
    for tree in range(TREES):
        new, many = [known], 0
        for candidates in _candidates(points, radius, np.random.default_rng(tree)):
            first, second = np.sort(candidates[_distances(hashes, candidates) <= radius], axis=1).T
            new.append(first * len(hashes) + second)
            many += len(first)
            if many > most:
                raise UserError(TOO_MANY.format(most))
        known = np.unique(np.concatenate(new))
        if len(known) > most:
            raise UserError(TOO_MANY.format(most))
    return np.stack(np.divmod(known, len(hashes)), axis=1)


def _leading(hashes: np.ndarray) -> np.ndarray:
    """The LEADING principal components of `hashes` float32 (N,D), as points float32 (N,K)."""
    mean = hashes.mean(axis=0, dtype=np.float64).astype(np.float32)
    components = np.linalg.eigh(hashes.T @ hashes - len(hashes) * np.outer(mean, mean))[1][:, : -LEADING - 1 : -1]
    return hashes @ components - mean @ components


def _distances(hashes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Distances float32 (P,) between the `hashes` float32 (N,D) of `pairs` of rows int64 (P,2)."""
    parts = np.array_split(pairs, len(pairs) // PAIRS_AT_ONCE + 1)
    return np.concatenate([np.linalg.norm(hashes[part[:, 0]] - hashes[part[:, 1]], axis=1) for part in parts])


def _candidates(points: np.ndarray, radius: float, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Pairs of rows of `points` float32 (N,K) that share a bucket of a random tree and are within `radius`, with a
    small tolerance: parts int64 (P,2), each pair once.
    """
    for bucket in _buckets(points, draw.permutation(len(points)), draw):  # equal points are halved in other ways, too
        first, second = _within(points[bucket], radius)
        yield np.stack([bucket[first], bucket[second]], axis=1)


def _buckets(points: np.ndarray, chosen: np.ndarray, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """The rows `chosen` int64 (n,) of `points` float32 (N,K) in parts of at most BUCKET neighbors.

    A part is halved across the line through two of its points, drawn at random, as in the random projection trees of
    Dasgupta and Freund 2008, "Random projection trees and low dimensional manifolds".
    """
    if len(chosen) <= BUCKET:
        yield chosen
        return
    here = points[chosen]
    one, other = here[draw.integers(len(here), size=2)]
    halves = np.argpartition(here @ (one - other), len(here) // 2)
    for half in np.array_split(halves, [len(here) // 2]):
        yield from _buckets(points, chosen[half], draw)


def _within(points: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows of `points` float32 (n,K) within `radius`, with a small tolerance, each once: two int64 (P,)."""
    # |a - b|^2 / 2 = |a|^2 / 2 + |b|^2 / 2 - ab, as one product of matrices
    halves = (points**2).sum(axis=1, keepdims=True) / 2
    ones = np.ones_like(halves)
    products = np.hstack([points, -halves, ones]) @ np.hstack([points, ones, -halves]).T
    first, second = np.divmod(np.flatnonzero(products >= -(radius**2) / 2 - ROUNDING), len(points))
    return first[first < second], second[first < second]


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
