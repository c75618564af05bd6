from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noisy_student.core.errors import UserError
from noisy_student.store.selection import Selection
from noisy_student.training import batches, placed_images
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.batches import (
    MAX_STEPS_AHEAD,
    Batches,
    shrunk,
    smooth,
    steps_ahead,
)
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.micro_batch import MicroBatch
from noisy_student.training.order import WINDOW, Order, rows_of_step
from noisy_student.training.params import DistillationParams
from noisy_student.training.placed_images import PlacedImages, has_room, on_device, placed, take

CPU = torch.device("cpu")
NOISE = {"operations": 2, "magnitude": 15.0, "crop": 1, "flip": True, "cutout": 0.3}


def numbered(first: int, count: int, target: list[float], copies: np.ndarray | None = None) -> PlacedImages:
    """Images whose every pixel is the image's number, so that a batch without noise tells what is in it.

    A teacher's logits for them are that number, three times.
    """
    images = np.arange(first, first + count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    teacher = np.repeat(np.arange(first, first + count, dtype=np.float32), 3).reshape(count, 3)
    targets = np.tile(np.array(target, np.float32), (count, 1))
    return placed(LabeledImages(images, targets, copies, teacher), CPU)


LABELED, POOL = numbered(0, 10, [1, 0, 0]), numbered(100, 30, [0.2, 0.3, 0.5])


def batch(recipe, pool=POOL, seed=0, step=0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = list(Batches(recipe, LABELED, pool, seed).parts(step))
    return tuple(torch.cat([getattr(part, name) for part in parts]) for name in ("images", "targets", "weights"))


@pytest.fixture
def as_rank(monkeypatch):
    """Makes this process believe that it is one of several ranks."""

    def become(rank: int, count: int) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(count))
        batches._roles.cache_clear()

    yield become
    batches._roles.cache_clear()


def numbers(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


@given(
    length=st.integers(1, 20),
    count=st.integers(1, 50),
    seed=st.integers(0, 3),
    copies=st.integers(1, 3),
)
def test_every_row_is_seen_once_an_epoch_whatever_the_batch_size(length, count, seed, copies):
    order = Order(np.repeat(np.arange(length), copies))
    steps = -(-3 * len(order) // count)  # three epochs at least
    seen = np.concatenate([rows_of_step(order, count, seed, "pool", step) for step in range(steps)])
    assert len(seen) == steps * count
    for epoch in range(3):
        assert sorted(seen[epoch * len(order) : (epoch + 1) * len(order)]) == order.rows.tolist()


def test_each_epoch_seed_and_purpose_has_an_order_of_its_own():
    order = Order(np.arange(50))
    rows = [rows_of_step(order, 50, *where) for where in ((0, "pool", 0), (0, "pool", 1), (1, "pool", 0), (0, "x", 0))]
    assert len({tuple(row) for row in rows}) == 4


def test_rows_that_are_read_together_stay_near_one_another():
    blocks = np.repeat(np.arange(100), 5)  # five rows each
    order = Order(np.arange(500), blocks)
    first, second = (rows_of_step(order, 500, 0, "pool", epoch) for epoch in range(2))
    assert sorted(first) == sorted(second) == list(range(500))
    windows = [np.unique(blocks[first[start : start + 5 * WINDOW]]) for start in range(0, 500, 5 * WINDOW)]
    assert sum(map(len, windows)) == 100  # each block is in one window alone
    assert len(np.unique(np.diff(first[:20]))) > 10
    assert set(blocks[first[: 5 * WINDOW]]) != set(blocks[second[: 5 * WINDOW]])


@pytest.mark.parametrize("ratio", [0.5, 1, 3, 7])
def test_a_batch_has_as_many_pool_images_for_each_labeled_one_as_asked_for(make_recipe, ratio):
    images, _, weights = batch(make_recipe(batch_size=24, pool_ratio=ratio))
    labeled = sum(number < 100 for number in numbers(images))
    assert (len(images) - labeled) / labeled == ratio
    assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_true_labels_are_never_altered_by_pseudo_labels(make_recipe, smoothing):
    recipe = make_recipe(noise=NOISE, batch_size=16, label_smoothing=smoothing)
    for step in range(20):
        _, targets, _ = batch(recipe, step=step)
        true = smooth(torch.tensor([[1.0, 0.0, 0.0]]), smoothing)
        assert torch.equal(targets[:4], true.expand(4, 3))
        assert torch.equal(targets[4:], torch.tensor([[0.2, 0.3, 0.5]]).expand(12, 3))  # nor is a pseudo-label smoothed
    assert LABELED.targets.tolist() == [[1.0, 0.0, 0.0]] * 10


def test_each_image_stands_beside_its_own_target(make_recipe):
    rng = np.random.default_rng(0)
    labeled = replace(LABELED, targets=rng.dirichlet([1, 1, 1], 10).astype(np.float32))
    for part in Batches(make_recipe(batch_size=24, accumulation=3), labeled, None, 0).parts(0):
        assert part.targets.tolist() == labeled.targets[numbers(part.images)].tolist()


@pytest.mark.parametrize("pool_weight", [0.5, 4])
def test_weights_sum_to_one_and_the_pool_weighs_as_much_as_asked_for(make_recipe, pool_weight):
    images, _, weights = batch(make_recipe(pool_weight=pool_weight))
    from_pool = torch.tensor(numbers(images)) >= 100
    assert weights.sum() == pytest.approx(1)
    assert weights[from_pool].sum() == pytest.approx(pool_weight * weights[~from_pool].sum())


def test_images_stay_in_the_machines_memory_where_a_gpu_has_no_room_for_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 10_000))
    assert has_room(torch.device("cuda"), 300)
    assert not has_room(torch.device("cuda"), 500)


def test_labels_alone_fill_the_batch_with_equal_weights(make_recipe):
    images, _, weights = batch(make_recipe(), pool=None)
    assert max(numbers(images)) < 100
    assert torch.allclose(weights, torch.tensor(1 / 16))


@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_the_parts_together_are_the_batch_and_each_has_labeled_and_pool_images(make_recipe, accumulation):
    recipe = make_recipe(noise=NOISE, batch_size=32, pool_ratio=3)
    whole = batch(recipe)
    in_parts = make_recipe(noise=NOISE, batch_size=32, accumulation=accumulation)
    parts = list(Batches(in_parts, LABELED, POOL, 0).parts(0))
    assert [len(part.weights) for part in parts] == [32 // accumulation] * accumulation
    for name, tensor in zip(("images", "targets", "weights"), whole, strict=True):
        assert torch.equal(torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1), tensor)
    for part in parts:
        assert {tuple(target) for target in part.targets.tolist()} == {
            tuple(t.targets[0].tolist()) for t in (LABELED, POOL)
        }


def test_a_batch_is_a_function_of_seed_and_step_whatever_came_before(make_recipe):
    recipe = make_recipe(noise=NOISE)
    first = batch(recipe, seed=3, step=7)
    batch(recipe, seed=3, step=6)
    torch.rand(5)
    assert all(map(torch.equal, first, batch(recipe, seed=3, step=7)))
    assert not torch.equal(first[0], batch(recipe, seed=3, step=8)[0])
    assert not torch.equal(first[0], batch(recipe, seed=4, step=7)[0])


def tensors(part: MicroBatch) -> dict[str, torch.Tensor]:
    """All that stands in a part of a batch, by its name."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("ahead", ["2", "5", ""])
@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize(
    ("objective", "mix"),
    [("pseudo_labels", "none"), ("pseudo_labels", "cutmix"), ("consistency", "none"), ("combined", "none")],
)
def test_batches_made_several_at_once_are_those_made_one_by_one(make_recipe, monkeypatch, ahead, first, objective, mix):
    recipe = make_recipe(noise=NOISE | {"mix": mix}, steps=9, objective=objective, label_smoothing=0.1)
    monkeypatch.setenv("NOISY_STUDENT_STEPS_AHEAD", "1")
    alone = [tensors(next(Batches(recipe, LABELED, POOL, 0).parts(step))) for step in range(first, 9)]
    monkeypatch.setenv("NOISY_STUDENT_STEPS_AHEAD", ahead)
    batches = Batches(recipe, LABELED, POOL, 0)
    assert batches.ahead == int(ahead or MAX_STEPS_AHEAD)
    for step, expected in enumerate(alone, start=first):
        found = tensors(next(batches.parts(step)))
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert not batches.ahead_batches  # nothing is made for steps that will not come


def test_as_many_batches_are_made_at_once_as_leave_the_memory_alone():
    assert [steps_ahead(values) for values in (1, 2**18, 2**21, 2**30)] == [MAX_STEPS_AHEAD, 8, 1, 1]


@pytest.mark.parametrize("asked", ["0", "-1", "many", "1.5"])
def test_a_number_of_batches_that_is_none_is_refused(monkeypatch, asked):
    monkeypatch.setenv("NOISY_STUDENT_STEPS_AHEAD", asked)
    with pytest.raises(UserError, match=r"NOISY_STUDENT_STEPS_AHEAD was .* set it to a whole number"):
        steps_ahead(1)


def test_a_finetuned_student_sees_the_pool_first_and_then_the_labels(make_recipe):
    recipe = make_recipe(steps=8, finetune=0.25)
    kinds = [set((torch.tensor(numbers(batch(recipe, step=step)[0])) >= 100).tolist()) for step in range(8)]
    assert kinds == [{True}] * 6 + [{False}] * 2
    assert all(batch(recipe, step=step)[2].sum() == pytest.approx(1) for step in range(8))
    assert max(numbers(batch(recipe, pool=None)[0])) < 100


@pytest.mark.parametrize("objective", ["consistency", "combined"])
def test_weak_and_strong_views_are_of_the_same_images(make_recipe, objective):
    recipe = make_recipe(noise=NOISE | {"crop": 0, "flip": False}, objective=objective)
    part = next(Batches(recipe, LABELED, POOL, 0).parts(0))
    plain = next(Batches(make_recipe(), LABELED, POOL, 0).parts(0))
    assert torch.equal(part.weak, plain.images[part.from_pool > 0])
    assert not torch.equal(part.images[part.from_pool > 0], part.weak)
    assert torch.equal(part.from_pool > 0, torch.tensor(numbers(plain.images)) >= 100)


@pytest.mark.parametrize("accumulation", [2, 3, 6])
def test_weak_views_stay_beside_their_images_in_every_part_of_a_batch(make_recipe, accumulation):
    recipe = make_recipe(batch_size=24, pool_ratio=2, accumulation=accumulation, objective="combined")
    for part in Batches(recipe, LABELED, POOL, 0).parts(0):
        assert torch.equal(part.weak, part.images[part.from_pool > 0])  # without noise


def test_weak_views_are_made_in_the_phase_with_the_pool_alone(make_recipe):
    recipe = make_recipe(steps=8, finetune=0.25, objective="combined")
    batches = Batches(recipe, LABELED, POOL, 0)
    views = [next(batches.parts(step)).weak for step in range(8)]
    assert [0 if weak is None else len(weak) for weak in views] == [16] * 6 + [0] * 2


def test_images_are_trained_on_smaller_and_at_last_whole_and_without_noise(make_recipe):
    recipe = make_recipe(noise=NOISE | {"mix": "cutmix"}, steps=8, resolution=0.5, resolution_fix=0.25)
    batches, plain = Batches(recipe, LABELED, POOL, 0), Batches(make_recipe(steps=8), LABELED, POOL, 0)
    for step in range(8):
        part, whole = next(batches.parts(step)), next(plain.parts(step))
        assert part.images.shape[2:] == ((2, 2) if step < 6 else (4, 4))
        assert torch.equal(part.images, whole.images) == (step >= 6)
        assert torch.equal(part.targets, whole.targets) == (step >= 6)


def test_a_smaller_image_is_the_mean_of_the_pixels_that_it_covers():
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    small = shrunk(image, 0.5)
    assert (small.shape, small.dtype) == ((1, 1, 4, 4), torch.uint8)
    assert abs(small.float().mean() - image.float().mean()) < 0.5
    assert shrunk(image, 1) is image


def test_pool_images_may_be_mixed_with_labeled_ones(make_recipe):
    images, targets, weights = batch(make_recipe(noise={"mix": "mixup"}))
    assert not torch.equal(images, batch(make_recipe())[0])
    assert weights.sum() == pytest.approx(1, rel=0.2)
    assert torch.allclose(targets.sum(dim=1), torch.ones(len(targets)))


@pytest.mark.parametrize(("taught_on", "labeled", "pool"), [("both", 4, 12), ("pool", 0, 16), ("labeled", 16, 0)])
def test_a_distilled_model_sees_what_it_is_taught_on_beside_its_teachers_logits(make_recipe, taught_on, labeled, pool):
    distillation = DistillationParams(images=taught_on, kind="soft", temperature=4, weight=0.5)
    recipe = make_recipe(accumulation=2).model_copy(update={"distillation": distillation})
    for step in range(3):
        parts = list(Batches(recipe, LABELED, None if taught_on == "labeled" else POOL, 0).parts(step))
        assert sum(int((part.from_pool == 0).sum()) for part in parts) == labeled
        assert sum(int((part.from_pool == 1).sum()) for part in parts) == pool
        for part in parts:
            assert part.teacher_logits.tolist() == [[number] * 3 for number in numbers(part.images)]


def test_an_image_is_noised_anew_in_every_step(make_recipe):
    images = np.random.default_rng(0).integers(256, size=(1, 8, 8, 1), dtype=np.uint8)
    one = placed(LabeledImages(images, np.eye(1)), CPU)
    batches = Batches(make_recipe(noise=NOISE), one, None, 0)
    noised = [next(batches.parts(step)).images for step in range(2)]
    assert not torch.equal(*noised)


def test_labeled_and_pool_images_are_drawn_in_orders_of_their_own(make_recipe):
    pool = numbered(100, 10, [0, 0, 1])
    images, _, _ = batch(make_recipe(batch_size=20, pool_ratio=1), pool)
    assert numbers(images[:10]) != [number - 100 for number in numbers(images[10:])]


def test_noise_reaches_labeled_and_pool_images_and_leaves_the_resident_ones_alone(make_recipe):
    before = LABELED.images.copy()
    noised = batch(make_recipe(noise={"cutout": 0.5, "fill": 77}))[0]
    assert (noised == 77).any(dim=1).flatten(1).any(dim=1).all()
    assert np.array_equal(LABELED.images, before)
    assert NoiseParams.none() == make_recipe().noise
    assert not (batch(make_recipe())[0] == 77).any()


def test_an_image_stands_in_an_epoch_as_often_as_it_has_copies(make_recipe):
    pool = numbered(100, 4, [0, 0, 1], copies=np.array([1, 2, 3, 6]))
    images, _, _ = batch(make_recipe(batch_size=16, pool_ratio=3), pool)  # 12 pool images: an epoch
    assert Counter(number for number in numbers(images) if number >= 100) == {100: 1, 101: 2, 102: 3, 103: 6}


def test_channels_come_first():
    images = np.random.default_rng(0).integers(256, size=(2, 4, 5, 3), dtype=np.uint8)
    first = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    assert torch.equal(on_device(images, CPU), first)
    taken = take(placed(LabeledImages(images, np.eye(2)), CPU), np.array([1, 0, 1])).images
    assert torch.equal(taken, first[[1, 0, 1]])
    assert taken.is_contiguous()


@given(smoothing=st.floats(0, 0.9), classes=st.integers(2, 5))
def test_smoothing_keeps_the_sum_and_the_most_probable_class(smoothing, classes):
    smoothed = smooth(torch.eye(classes), smoothing)
    assert torch.allclose(smoothed.sum(dim=1), torch.ones(classes))
    assert smoothed.argmax(dim=1).tolist() == list(range(classes))
    assert smoothed[0, 1] == pytest.approx(smoothing / classes)


class Recording(Selection):
    """Images that note how many of them are read at once."""

    def __init__(self, split):
        super().__init__(split.shards, np.arange(len(split)))
        self.read = []

    def __getitem__(self, part):
        self.read.append(len(self.rows[part]))
        return super().__getitem__(part)


def test_without_a_gpu_only_the_pixels_of_the_next_steps_are_read(make_split, make_recipe):
    split = make_split(0, 50, shards=4)
    images = Recording(split)
    found = placed(replace(LabeledImages.from_labels(split), images=images), CPU)
    assert images.read == []
    next(Batches(make_recipe(batch_size=20), found, None, 0).parts(0))
    assert set(images.read) == {20}


def test_pixels_go_to_a_gpu_a_few_at_a_time(monkeypatch, make_split):
    monkeypatch.setattr(placed_images, "VALUES_READ", 64 * 7)
    split = make_split(0, 50, shards=4)
    images = Recording(split)
    found = on_device(images, CPU)
    assert images.read == [7] * 7 + [1]
    assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), split.images())


@pytest.mark.parametrize("objective", ["pseudo_labels", "combined"])
@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_of_the_ranks_are_the_batch(make_recipe, as_rank, objective, count):
    recipe = make_recipe(noise=NOISE, objective=objective, batch_size=24, accumulation=2)

    def images_of_step() -> tuple[list, list]:
        """Each image with its target, weight and role; and each weak view."""
        parts = list(Batches(recipe, LABELED, POOL, seed=3).parts(5))
        rows = [
            [*image.flatten().tolist(), *target.tolist(), float(weight), float(role)]
            for part in parts
            for image, target, weight, role in zip(part.images, part.targets, part.weights, part.from_pool, strict=True)
        ]
        weak = [view.flatten().tolist() for part in parts if part.weak is not None for view in part.weak]
        return rows, weak

    alone, alone_weak = images_of_step()
    shares = []
    for rank in range(count):
        as_rank(rank, count)
        shares.append(images_of_step())
    assert len({len(images) for images, _ in shares}) == 1
    assert sorted(row for images, _ in shares for row in images) == sorted(alone)
    assert sorted(row for _, weak in shares for row in weak) == sorted(alone_weak)


def test_a_batch_too_small_for_the_ranks_is_refused(make_recipe, as_rank):
    as_rank(0, 5)
    with pytest.raises(UserError, match=r"batch_size 16 in 2 parts .* too small for 5 ranks; raise it, or start"):
        Batches(make_recipe(batch_size=16, accumulation=2), LABELED, POOL, seed=0)
