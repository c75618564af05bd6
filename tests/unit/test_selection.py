import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from noisy_student.core.errors import UserError
from noisy_student.core.files import write_array, write_parquet
from noisy_student.core.metrics import one_hot, softmax
from noisy_student.pseudo_labeling.selection import (
    Limits,
    PseudoLabelParams,
    balanced_copies,
    find_limits,
    precise_threshold,
    reached_threshold,
    shuffled,
    softened,
    true_labels,
    with_random_errors,
)
from noisy_student.pseudo_labeling.selection import make as make_hard
from noisy_student.store import pseudo_labels as store
from noisy_student.store.pseudo_labels import (
    PseudoLabels,
    predicted,
    read_logits,
    read_pseudo_labels,
    save_pseudo_labels,
)
from noisy_student.store.selection import Selection

LOGITS = arrays(np.float32, st.tuples(st.integers(1, 40), st.just(4)), elements=st.floats(-5, 5, width=32))
OPTIONS = st.builds(
    PseudoLabelParams,
    kind=st.sampled_from(["soft", "hard"]),
    calibrate=st.booleans(),
    threshold=st.floats(0, 0.25),  # of four classes the best has at least a quarter, so some image is always kept
    balance=st.booleans(),
)
SOFT = PseudoLabelParams(kind="soft", calibrate=False, threshold=0.0, balance=False)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def make(logits: np.ndarray, params: PseudoLabelParams, temperature: float, draw, *limits) -> PseudoLabels:
    """Pseudo-labels with their targets, as the stage makes them."""
    pool = Selection([logits], np.arange(len(logits)))
    return softened(make_hard(predicted(pool, temperature), params, draw, *limits), pool, temperature, params)


def targets(pseudo_labels: PseudoLabels, classes: int = 3) -> np.ndarray:
    """All targets, as a student learns them."""
    soft = pseudo_labels.soft_targets
    return one_hot(pseudo_labels.labels, classes) if soft is None else soft[:]


def options(**changed) -> PseudoLabelParams:
    return PseudoLabelParams(**{**SOFT.model_dump(), **changed})


@given(logits=LOGITS, params=OPTIONS, temperature=st.floats(0.5, 2))
def test_pseudo_labels_are_what_they_say(logits, params, temperature):
    made = make(logits, params, temperature, rng())
    probabilities = softmax(logits, temperature)[made.rows]
    assert (np.diff(made.rows) > 0).all()
    assert (made.copies >= 1).all()
    assert np.array_equal(made.labels, probabilities.argmax(axis=1))
    assert np.allclose(made.confidence, probabilities.max(axis=1))
    found = targets(made, 4)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-6)
    assert found.dtype == np.float32
    expected = probabilities if params.kind == "soft" else one_hot(made.labels, 4)
    assert np.allclose(found, expected, atol=1e-6)


@given(logits=LOGITS, threshold=st.floats(0, 1))
def test_the_threshold_parts_the_pool(logits, threshold):
    confidence = softmax(logits).max(axis=1)
    if confidence.max() < threshold:
        with pytest.raises(UserError, match=f"{confidence.max():.3f}"):
            make(logits, options(threshold=threshold), 1.0, rng())
    else:
        rows = make(logits, options(threshold=threshold), 1.0, rng()).rows
        assert np.array_equal(rows, np.flatnonzero(confidence >= threshold))


def test_nothing_above_the_threshold_is_refused_with_the_highest_confidence():
    with pytest.raises(UserError, match=r"confidence of at least 0.900; the highest is 0.622; lower pseudo_labels"):
        make(np.array([[0.5, 0.0], [0.1, 0.0]]), options(threshold=0.9), 1.0, rng())


def test_a_confidence_at_the_threshold_is_enough():
    assert len(make(np.zeros((3, 2)), options(threshold=0.5), 1.0, rng()).rows) == 3


def test_a_higher_temperature_softens_the_targets_and_a_threshold_feels_it():
    logits = np.array([[2.0, 0.0], [0.5, 0.0]])
    sharp, soft = make(logits, SOFT, 1.0, rng()), make(logits, SOFT, 4.0, rng())
    assert (soft.confidence < sharp.confidence).all()
    assert np.array_equal(soft.labels, sharp.labels)
    assert len(make(logits, options(threshold=0.8), 1.0, rng()).rows) == 1
    with pytest.raises(UserError):
        make(logits, options(threshold=0.8), 4.0, rng())


@given(
    labels=arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 4)),
    confidence=arrays(float, 60, elements=st.floats(0, 1)),
)
def test_balance_gives_every_class_that_occurs_equally_many(labels, confidence):
    confidence = confidence[: len(labels)]
    copies = balanced_copies(labels, confidence, rng())
    present = np.unique(labels)
    used = np.bincount(labels, copies)[present]
    assert (used == np.ceil(len(labels) / len(present))).all()
    for k in present:
        mine, kept = copies[labels == k], copies[labels == k] > 0
        assert np.ptp(mine[kept]) <= 1  # repeated evenly
        assert kept.all() or mine.max() == 1  # nothing is repeated while another is left out
        left_out = confidence[labels == k][~kept]
        assert left_out.max(initial=0) <= confidence[labels == k][kept].min()


def test_the_generator_alone_chooses_what_is_repeated():
    labels = np.array([0] * 12 + [1] * 5)
    draws = [tuple(balanced_copies(labels, np.ones(17), np.random.default_rng(seed))) for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1


def test_one_class_alone_is_its_own_balance():
    made = make(np.tile([3.0, 0.0], (5, 1)), options(balance=True), 1.0, rng())
    assert made.copies.tolist() == [1] * 5


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_pseudo_labels_come_back_as_they_were_saved(tmp_path, kind):
    made = make(rng().normal(size=(50, 3)), options(kind=kind, balance=True), 1.0, rng())
    save_pseudo_labels(tmp_path, made, ["a", "b", "c"], 50, {"temperature": 1.0, **Limits(0.0).figures()})
    back = read_pseudo_labels(tmp_path)
    for name in ("rows", "labels", "confidence", "copies"):
        assert getattr(back, name).dtype == getattr(made, name).dtype
        assert np.array_equal(getattr(back, name), getattr(made, name))
    assert (back.soft_targets is None) == (kind == "hard")
    assert np.array_equal(targets(back), targets(made))


def test_the_report_counts_unique_images_and_copies_apart_and_names_classes_without_any(tmp_path):
    logits = np.eye(3)[[0] * 6 + [1] * 2] * 9  # none of the third class
    made = make(logits, options(balance=True), 1.5, rng())
    save_pseudo_labels(tmp_path, made, ["a", "b", "c"], 20, {"temperature": 1.5, **Limits(0.3, 2.0).figures()})
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "pool_images": 20,
        "temperature": 1.5,
        "threshold": 0.3,
        "least_ood_score": 2.0,
        "unique_images": 6,
        "images_with_copies": 8,
        "unique_by_class": {"a": 4, "b": 2, "c": 0},
        "with_copies_by_class": {"a": 4, "b": 4, "c": 0},
        "classes_without_images": ["c"],
    }


def test_a_table_of_other_columns_is_no_pseudo_labels(tmp_path):
    write_parquet(tmp_path / "pseudo_labels.parquet", pa.table({"row": [0], "label": [1]}))
    with pytest.raises(UserError, match="has the columns row, label; run `dvc repro`"):
        read_pseudo_labels(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more"])
def test_pseudo_labels_that_cannot_be_read_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "pseudo_labels.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"pseudo_labels\.parquet"):
        read_pseudo_labels(tmp_path)


def test_memory_holds_a_part_of_the_logits_of_a_large_pool(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROWS_AT_ONCE", 1000)
    images, classes = 20_000, 500
    logits = rng().normal(size=(images, classes)).astype(np.float32)  # 40 MB
    write_array(tmp_path / "pool-00000.npy", logits)
    tracemalloc.start()
    try:
        pool, soft = read_logits(tmp_path, "pool"), options(kind="soft")
        made = softened(make_hard(predicted(pool, 1.0), soft, rng()), pool, 1.0, soft)
        save_pseudo_labels(tmp_path / "out", made, [f"{k}" for k in range(classes)], images, {"temperature": 1.0})
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert np.allclose(read_pseudo_labels(tmp_path / "out").soft_targets[-3:], softmax(logits[-3:]), atol=1e-6)


def test_logits_of_shards_are_laid_end_to_end(tmp_path):
    logits = np.arange(24, dtype=np.float32).reshape(12, 2)
    for shard in range(12):  # a shard with one digit more than another must not change places with it
        write_array(tmp_path / f"pool-{shard:05}.npy", logits[shard : shard + 1])
    write_array(tmp_path / "calibration-00000.npy", -logits)
    assert np.array_equal(read_logits(tmp_path, "pool")[:], logits)
    with pytest.raises(UserError, match="no logits of the test split"):
        read_logits(tmp_path, "test")


@given(logits=LOGITS, temperature=st.floats(0.1, 1))
def test_a_target_temperature_sharpens_targets_and_changes_nothing_else(logits, temperature):
    plain, sharp = (make(logits, options(target_temperature=t), 1.0, rng()) for t in (1.0, temperature))
    assert np.array_equal(plain.rows, sharp.rows)
    assert np.array_equal(plain.confidence, sharp.confidence)
    assert (targets(sharp).max(axis=1) >= targets(plain).max(axis=1) - 1e-6).all()
    assert np.allclose(targets(sharp), softmax(logits, temperature), atol=1e-6)


@given(logits=LOGITS, seed=st.integers(0, 5), precision=st.floats(0.1, 1))
def test_the_threshold_for_a_precision_is_the_lowest_that_has_it(logits, seed, precision):
    labels = np.random.default_rng(seed).integers(4, size=len(logits))
    confidence, right = softmax(logits).max(axis=1), softmax(logits).argmax(axis=1) == labels

    def reached(threshold: float) -> float:
        return right[confidence >= threshold].mean()

    try:
        threshold = precise_threshold(softmax(logits), labels, precision)
    except UserError:
        assert all(reached(c) < precision for c in confidence)
    else:
        assert reached(threshold) >= precision
        assert all(reached(c) < precision for c in confidence if c < threshold)


@given(logits=LOGITS, fraction=st.floats(0.01, 1))
def test_the_threshold_for_a_fraction_is_the_highest_that_so_many_reach(logits, fraction):
    confidence = softmax(logits).max(axis=1)
    threshold = reached_threshold(confidence, fraction)
    assert (confidence >= threshold).sum() >= fraction * len(logits)
    assert (confidence > threshold).sum() < fraction * len(logits)


def test_a_fraction_of_the_pool_is_kept_however_sure_the_teacher_is():
    logits = rng().normal(size=(50, 3))
    asked = options(kept_fraction=0.3)
    for scale in (0.1, 10.0):
        limits = find_limits(asked, np.eye(3), np.arange(3), 1.0, pool=predicted(scale * logits, 1.0))
        assert len(make(scale * logits, asked, 1.0, rng(), limits).rows) == 15


@pytest.mark.parametrize("other", [{"threshold": 0.5}, {"precision": 0.9}])
def test_only_one_option_chooses_the_threshold(other):
    with pytest.raises(ValueError, match="where kept_fraction chooses the threshold"):
        options(kept_fraction=0.5, **other)


def test_a_precision_that_cannot_be_had_is_refused_with_the_best_there_is():
    logits = np.array([[2.0, 0.0], [3.0, 0.0]])
    with pytest.raises(UserError, match=r"no threshold has precision 0.9 .*; the highest is 0.500; lower pseudo"):
        precise_threshold(softmax(logits), np.array([0, 1]), 0.9)


def test_where_only_the_evidence_is_missing_the_remedy_is_about_it():
    with pytest.raises(UserError, match=r"no confident pool image passes .*; raise pseudo_labels.ood_quantile"):
        make(np.eye(3), options(), 1.0, rng(), Limits(0.1, ood_score=5.0), np.zeros(3))


def test_without_options_the_threshold_alone_parts_the_pool():
    assert find_limits(options(threshold=0.4), np.eye(3), np.arange(3), 1.0) == Limits(0.4)


@pytest.mark.parametrize("per_class", [1, 7, 30])
def test_so_many_images_a_class_as_asked_for_stand_in_an_epoch(per_class):
    made = make(rng().normal(size=(60, 3)), options(balance=True, per_class=per_class), 1.0, rng())
    assert np.bincount(made.labels, made.copies).tolist() == [per_class] * 3


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"per_class": 3, "balance": False}, "must have balance true where per_class is set"),
        ({"precision": 0.9, "threshold": 0.5}, "must have threshold 0 where precision chooses it"),
        ({"ood_neighbors": 3}, "must have ood_quantile, such as 0.95, where ood_neighbors is set"),
        ({"kind": "hard", "target_temperature": 0.5}, "must have target_temperature 1 where kind is hard"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        options(**changed)


def test_an_oracle_says_what_is_true_of_what_is_known():
    told = true_labels(np.array([2, -1, 0]), options(threshold=1.0, balance=False), rng())
    assert told.rows.tolist() == [0, 2]
    assert told.labels.tolist() == [2, 0]
    assert told.soft_targets is None
    assert told.copies.tolist() == [1, 1]
    with pytest.raises(UserError, match="no label of the pool is known"):
        true_labels(np.array([-1, -1]), options(), rng())


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_an_oracle_is_balanced_as_its_iteration_is(kind):
    told = true_labels(np.array([0, 0, 0, 1, -1]), options(kind=kind, balance=True, per_class=6), rng())
    assert np.bincount(told.labels, told.copies).tolist() == [6, 6]
    assert told.soft_targets is None


def test_shuffled_pseudo_labels_are_the_same_ones_elsewhere():
    made = make(rng().normal(size=(50, 3)), options(balance=True), 1.0, rng())
    moved = shuffled(made, np.random.default_rng(1))
    assert np.array_equal(moved.rows, made.rows)
    assert sorted(moved.copies) == sorted(made.copies)
    assert np.array_equal(np.bincount(moved.labels, moved.copies), np.bincount(made.labels, made.copies))
    assert not np.array_equal(targets(moved), targets(made))
    assert sorted(map(tuple, targets(moved))) == sorted(map(tuple, targets(made)))
    assert np.array_equal(targets(moved).argmax(axis=1), moved.labels)


def test_random_errors_are_those_of_the_teacher_on_other_images_of_the_same_class():
    made = make(rng().normal(size=(90, 3)), options(balance=True), 1.0, rng())
    truth = np.resize([0, 1, 2, -1], 90)
    moved = with_random_errors(made, truth, np.random.default_rng(1))
    assert np.array_equal(moved.rows, made.rows)
    actual = truth[made.rows]
    for labels in (made.labels, moved.labels):
        assert np.array_equal(labels[actual < 0], made.labels[actual < 0])
    assert not np.array_equal(moved.labels, made.labels)
    for k in range(3):
        own, others = (each.labels[actual == k] for each in (made, moved))
        assert sorted(own) == sorted(others)
    assert np.array_equal(targets(moved).argmax(axis=1), moved.labels)
    with pytest.raises(UserError, match="no label of the pool is known"):
        with_random_errors(made, np.full(90, -1), np.random.default_rng(1))
