import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from noisy_student.core.errors import UserError
from noisy_student.data.splitting import (
    Index,
    SplitParams,
    Splits,
    allocate,
    near_duplicates_sentences,
    plan,
    report,
    sizes_sentences,
    tail,
)
from noisy_student.data.splitting import draw as draw_from

NAMES = {"test", "labeled", "calibration", "validation", "pool"}


def params(**changes):
    sizes = {"test_seed": 0, "test": 4, "labeled_per_class": 2, "calibration": 3, "validation": 4, "pool": None}
    return SplitParams(**sizes | changes)


def draw(wanted, seed, labels, hashes, source_test, classes, **known) -> Splits:
    """Splits of rows of which no more is known than `known` says."""
    return draw_from(wanted, seed, Index(labels, np.array(hashes), source_test, classes, **known))


@st.composite
def sources(draw_from):
    """Labels, hashes with up to five planted copies, the number of own test images, the number of classes."""
    classes = draw_from(st.integers(2, 4))
    source_test = draw_from(st.sampled_from([0, 20]))
    counts = draw_from(st.lists(st.integers(12, 30), min_size=classes, max_size=classes))
    training = draw_from(st.permutations(np.repeat(np.arange(classes), counts).tolist()))
    unlabeled = draw_from(st.integers(0, 8))
    labels = np.array([*np.resize(np.arange(classes), source_test), *training, *[-1] * unlabeled])
    hashes = [f"{row:03}" for row in range(len(labels))]
    row = st.integers(0, len(labels) - 1)
    for copy, original in draw_from(st.lists(st.tuples(row, row), max_size=5)):
        hashes[copy] = hashes[original]
    return labels, hashes, source_test, classes


@given(sources(), st.integers(0, 99), st.sampled_from([None, 5]))
def test_splits_are_disjoint_and_exact_and_no_image_is_in_two(source, seed, pool):
    labels, hashes, source_test, classes = source
    wanted = params(pool=pool)
    rows = draw(wanted, seed, labels, hashes, source_test, classes).rows
    assert rows.keys() == NAMES
    everything = np.concatenate(list(rows.values()))
    assert len(np.unique(everything)) == len(everything)
    assert len({hashes[row] for row in everything}) == len(everything)
    assert {name: len(rows[name]) for name in ("test", "calibration", "validation")} == {
        "test": wanted.test,
        "calibration": wanted.calibration,
        "validation": wanted.validation,
    }
    assert np.bincount(labels[rows["labeled"]], minlength=classes).tolist() == [wanted.labeled_per_class] * classes
    assert all((np.diff(each) > 0).all() for name, each in rows.items() if name != "pool")
    if pool:
        assert len(rows["pool"]) == pool
    elif not source_test:
        assert len(everything) == len(set(hashes))  # every image is somewhere


@given(sources(), st.integers(0, 99))
def test_labels_are_known_where_they_are_needed_and_own_test_images_stay_there(source, seed):
    labels, hashes, source_test, classes = source
    rows = draw(params(), seed, labels, hashes, source_test, classes).rows
    assert all((labels[rows[name]] >= 0).all() for name in NAMES - {"pool"})
    if source_test:
        assert (rows["test"] < source_test).all()
        assert all((rows[name] >= source_test).all() for name in NAMES - {"test"})
        outside = {hashes[row] for name in NAMES - {"test"} for row in rows[name]}
        assert not outside & set(hashes[:source_test])


@given(sources(), st.integers(0, 99), st.integers(100, 199))
def test_the_test_split_follows_its_own_seed_alone(source, seed, other):
    labels, hashes, source_test, classes = source
    before = draw(params(), seed, labels, hashes, source_test, classes).rows
    after = draw(params(labeled_per_class=1), other, labels, hashes, source_test, classes).rows
    assert np.array_equal(before["test"], after["test"])


def test_each_seed_moves_what_it_is_there_for():
    labels, hashes = np.arange(400) % 4, [f"{row}" for row in range(400)]
    base, other = (draw(params(), seed, labels, hashes, 0, 4).rows for seed in (0, 1))
    again = draw(params(), 0, labels, hashes, 0, 4).rows
    assert all(np.array_equal(base[name], again[name]) for name in NAMES)
    assert all(not np.array_equal(base[name], other[name]) for name in NAMES - {"test"})
    assert not np.array_equal(base["test"], draw(params(test_seed=1), 0, labels, hashes, 0, 4).rows["test"])


def test_more_held_out_labels_leave_the_training_labels_alone():
    labels, hashes = np.arange(400) % 4, [f"{row}" for row in range(400)]
    few, many = (draw(params(validation=n), 0, labels, hashes, 0, 4).rows for n in (4, 40))
    assert all(np.array_equal(few[name], many[name]) for name in ("test", "labeled", "calibration"))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20).filter(any), st.data())
def test_allocation_is_exact_proportional_and_possible(counts, data):
    counts = np.array(counts)
    total = data.draw(st.integers(0, int(counts.sum())))
    shares = allocate(counts, total)
    assert shares.sum() == total
    assert (shares <= counts).all()
    assert (np.abs(shares - counts * (total / counts.sum())) < 1 + 1e-6).all()


def test_the_first_of_identical_images_stays_and_conflicts_are_counted():
    labels = np.array([0, 1] * 20)
    hashes = [f"{row}" for row in range(40)]
    hashes[30] = hashes[2]  # the same label
    hashes[31] = hashes[2]  # another
    hashes[35] = hashes[36] = hashes[5]
    splits = draw(params(), 0, labels, hashes, 0, 2)
    assert (len(splits.copies), splits.conflicting) == (4, 2)
    assert not {30, 31, 35, 36} & set(np.concatenate(list(splits.rows.values())).tolist())


def test_a_copy_without_a_label_is_dropped_without_a_conflict():
    labels = np.array([0, 1] * 20 + [-1, -1])
    hashes = [f"{row}" for row in range(41)] + ["3"]
    splits = draw(params(), 0, labels, hashes, 0, 2)
    assert (len(splits.copies), splits.conflicting) == (1, 0)
    assert 40 in splits.rows["pool"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"test": 41},
            r"data\.test 41, data\.calibration 3, data\.validation 4 ask for 48 labels, but there are only 40 ",
        ),
        ({"labeled_per_class": None, "validation": 32}, "ask for 39 labels, but .* each of 2 classes needs one"),
        ({"labeled_per_class": 19}, r"data\.labeled_per_class was 19; only 18 "),
        ({"calibration": 33}, r"lower them, for example to data\.test 2, data\.calibration 16, data\.validation 1"),
        ({"validation": 30}, r"data\.validation was 30; only 29 "),
        ({"pool": 26}, r"data\.pool was 26; only 25 "),
        ({"validation": 29}, "no image for the pool; lower data.labeled_per_class, or add images without labels"),
    ],
)
def test_more_than_there_is_is_refused_by_key_and_number(change, said):
    with pytest.raises(UserError, match=said):
        plan(params(**change), np.array([20, 20]), None, 0)


@given(st.lists(st.integers(3, 40), min_size=2, max_size=5), st.lists(st.integers(2, 300), min_size=3, max_size=3))
def test_the_sizes_that_an_error_proposes_fit(counts, sizes):
    test, calibration, validation = sizes
    wanted = {"test": test, "calibration": calibration, "validation": validation}
    labels = np.array(counts)
    assume(sum(sizes) + len(labels) > labels.sum())
    with pytest.raises(UserError) as refused:
        plan(params(labeled_per_class=None, **wanted), labels, None, 1)
    proposed = re.findall(r"data\.(\w+) (\d+)", str(refused.value).partition("for example")[2])
    assert proposed or labels.sum() < 10
    if proposed:
        fitting = {name: int(count) for name, count in proposed}
        planned = plan(params(labeled_per_class=None, **fitting), labels, None, 1)
        assert all(planned["labeled"] > 0)


def test_without_a_number_of_training_labels_there_is_none_to_lower():
    with pytest.raises(UserError, match="leaves no image for the pool; add images without labels"):
        plan(params(labeled_per_class=None), np.array([20, 20]), None, 0)


def test_fewer_labels_than_any_split_needs_ask_for_more():
    with pytest.raises(UserError, match="needs one to train on; label 1 more"):
        plan(params(labeled_per_class=None), np.array([3, 2]), None, 1)


def test_what_is_just_there_is_accepted():
    planned = plan(params(validation=29, pool=7), np.array([20, 20]), None, 7)
    assert {name: counts.sum() for name, counts in planned.items()} == {
        "test": 4,
        "labeled": 4,
        "calibration": 3,
        "validation": 29,
    }
    assert plan(params(test=None), np.array([20, 20]), np.array([7, 8]), 0)["test"].tolist() == [7, 8]
    with pytest.raises(UserError, match=r"data\.test was 16; only 15 "):
        plan(params(test=16), np.array([20, 20]), np.array([7, 8]), 0)


def test_sizes_without_a_number_are_a_share_of_the_labels():
    by_rule = params(test=None, calibration=None, validation=None, labeled_per_class=None)

    def sizes(training, source_test=None):
        planned = plan(by_rule, np.array(training), source_test, 100)
        return {name: int(counts.sum()) for name, counts in planned.items()}

    assert sizes([100, 100]) == {"test": 40, "calibration": 40, "validation": 10, "labeled": 110}
    assert sizes([100, 100], np.array([30, 50])) == {"test": 80, "calibration": 40, "validation": 10, "labeled": 150}
    assert sizes([4, 4]) == {"test": 2, "calibration": 2, "validation": 1, "labeled": 3}
    assert sizes([10**6, 10**6])["calibration"] == 1000
    of_ten_labels = plan(by_rule.model_copy(update={"labeled_per_class": 5}), np.array([100, 100]), None, 0)
    assert {name: int(counts.sum()) for name, counts in of_ten_labels.items()} == {
        "test": 2,
        "calibration": 2,
        "validation": 1,
        "labeled": 10,
    }


def test_a_copy_is_no_image_when_there_are_just_enough():
    labels, hashes = np.array([0, 1] * 6), [f"{row}" for row in range(12)]
    wanted = params(test=2, labeled_per_class=3, calibration=2, validation=1)
    assert len(draw(wanted, 0, labels, hashes, 0, 2).rows["pool"]) == 1
    with pytest.raises(UserError, match="no image for the pool"):
        draw(wanted, 0, labels, [*hashes[:-1], "0"], 0, 2)


def test_the_report_states_training_and_held_out_labels_apart():
    labels, hashes = np.array([0, 1] * 20 + [-1]), [f"{row}" for row in range(41)]
    told = report(draw(params(), 0, labels, hashes, 0, 2), labels, ["cat", "dog"])
    assert (told["training_labels"], told["held_out_labels"]) == (4, 7)
    assert told["images"] == {"test": 4, "labeled": 4, "calibration": 3, "validation": 4, "pool": 26}
    assert told["images_by_class"]["labeled"] == {"cat": 2, "dog": 2}
    assert sum(told["images_by_class"]["pool"].values()) + told["pool_images_of_unknown_class"] == 26
    assert told["pool_images_of_unknown_class"] == 1


def test_allocation_stays_exact_where_floats_would_round():
    assert allocate(np.array([10**9, 2 * 10**9, 3]), 10**9).tolist() == [333333333, 666666666, 1]


def test_near_duplicates_are_counted_with_the_labeled_ones_among_them():
    near = {1: (0, 0.99), 3: (2, 0.97), 4: (2, 0.97)}
    few = {"labeled": np.arange(2), "pool": np.arange(2, 50)}
    (said,) = near_duplicates_sentences(near, few, Path("card.md"))
    assert said.startswith("left out as near-duplicates: 3 (1 labeled, 2 of the pool); card.md shows pairs, ")
    _, warning = near_duplicates_sentences(near, few | {"pool": np.arange(2, 10)}, Path("card.md"))
    assert warning.startswith("warning: that is 30 % of the images to train on; if all look alike")


def test_a_test_split_too_small_to_tell_much_is_warned_of():
    sizes = {"labeled": 33, "pool": 1240, "test": 12}
    images, warning = sizes_sentences(sizes)
    assert images == "images: 33 labeled, 1,240 pool, 12 test"
    assert warning.startswith("warning: 12 test images tell an accuracy to within 18 points (95 %); label more")
    assert len(list(sizes_sentences({**sizes, "test": 500}))) == 1


@pytest.mark.parametrize(("share", "images"), [(0.1, 8), (0.001, 1), (None, 16), (3, 3)])
def test_labels_are_held_out_by_number_or_by_share(share, images):
    wanted = params(labeled_per_class=None, test=None, calibration=share, validation=1)
    planned = plan(wanted, np.array([40, 40]), np.array([5, 5]), 100)
    assert planned["calibration"].sum() == images
    assert planned["labeled"].sum() == 80 - images - 1


@pytest.mark.parametrize("share", [1.0, 0.0, -0.1, 0, True, "0.1"])
def test_a_share_is_a_part_of_the_labels(share):
    with pytest.raises(ValidationError):
        params(calibration=share)


def test_a_test_split_of_one_image_has_no_interval_and_is_refused():
    training, test = np.array([20, 20]), np.array([1, 0])
    with pytest.raises(UserError, match="the test split of the images has 1; put 2 or more there, or none at all"):
        plan(params(labeled_per_class=2, test=None), training, test, 100)


def test_a_tail_falls_geometrically_and_leaves_an_image_of_each_class():
    assert tail(np.array([100, 100, 100]), 100).tolist() == [100, 10, 1]
    assert tail(np.array([100, 100, 100]), 0.01).tolist() == [1, 10, 100]
    assert tail(np.array([7, 0, 3]), 1000).tolist() == [7, 0, 1]
    assert tail(np.array([5]), 10).tolist() == [5]
    assert tail(np.array([4, 9]), 1).tolist() == [4, 9]


def test_a_long_tail_is_that_of_the_labels_and_the_pool_has_its_own():
    labels = np.array([*np.repeat([0, 1, 2], 200), *[-1] * 10])
    hashes = [f"{row:03}" for row in range(len(labels))]
    wanted = params(
        test=30, labeled_per_class=40, calibration=12, validation=12, labeled_imbalance=16, pool_imbalance=0.25
    )
    rows = draw(wanted, 0, labels, hashes, 0, 3).rows
    counts = {name: np.bincount(labels[each][labels[each] >= 0], minlength=3).tolist() for name, each in rows.items()}
    assert counts["test"] == [10, 10, 10]
    assert counts["labeled"] == [40, 10, 2]
    assert counts["calibration"][0] > counts["calibration"][1] > 0
    assert counts["pool"][0] < counts["pool"][1] < counts["pool"][2]
    whole = draw(wanted.model_copy(update={"pool_imbalance": 1}), 0, labels, hashes, 0, 3).rows["pool"]
    known = np.bincount(labels[whole][labels[whole] >= 0])
    assert counts["pool"] == tail(known, 0.25).tolist()
    assert set(rows["pool"]) < set(whole)
    assert (labels[rows["pool"]] < 0).sum() == 10
    assert not set(rows["pool"]) & set(rows["labeled"])
    again = draw(wanted, 1, labels, hashes, 0, 3).rows
    assert not np.array_equal(again["pool"], rows["pool"])


def test_a_long_tail_of_all_labels_has_no_size():
    with pytest.raises(ValidationError, match="labeled_per_class, the labels of the largest class"):
        params(labeled_per_class=None, labeled_imbalance=10)
