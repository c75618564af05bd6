import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_selection import SOFT, options, rng

from noisy_student.core.errors import UserError
from noisy_student.core.files import write_array
from noisy_student.pseudo_labeling.ood import likeness, negative_energy, ood_scores
from noisy_student.pseudo_labeling.selection import find_limits, make
from noisy_student.store.pseudo_labels import predicted


def test_images_unlike_those_of_training_are_left_out_by_their_energy():
    known = rng().normal(size=(200, 3)) + np.eye(3)[rng().integers(3, size=200)] * 8
    strange = rng().normal(size=(100, 3))
    limits = find_limits(options(ood_quantile=0.95), known, np.zeros(200, int), 1.0, negative_energy(known))
    assert np.mean(negative_energy(known) >= limits.ood_score) == pytest.approx(0.95, abs=0.01)
    pool = np.concatenate([known, strange])
    rows = make(predicted(pool, 1.0), SOFT, rng(), limits, negative_energy(pool)).rows
    assert np.mean(rows < 200) > 0.99


@given(
    features=arrays(np.float16, (9, 4), elements=st.floats(-5, 5, width=16)),
    labeled=arrays(np.float16, (6, 4), elements=st.floats(-5, 5, width=16)),
    neighbors=st.integers(1, 6),
)
def test_likeness_is_the_cosine_with_the_nearest_labeled_images(features, labeled, neighbors):
    found = likeness(features, labeled, neighbors)
    for feature, cosine in zip(features.astype(float), found, strict=True):
        lengths = np.maximum(np.linalg.norm(feature) * np.linalg.norm(labeled.astype(float), axis=1), 1e-30)
        assert cosine == pytest.approx(np.sort(labeled.astype(float) @ feature / lengths)[-neighbors], abs=1e-3)


def test_scores_are_of_the_kind_that_the_options_name(tmp_path):
    logits, labeled = rng().normal(size=(5, 3)).astype(np.float32), rng().normal(size=(4, 2)).astype(np.float16)
    features = np.concatenate([2 * labeled, -labeled[:1]])
    for name, array in (("pool", logits), ("features-pool", features), ("features-labeled", labeled)):
        write_array(tmp_path / f"{name}-00000.npy", array)
    assert ood_scores(tmp_path, "pool", logits, SOFT) is None
    energy = ood_scores(tmp_path, "pool", logits, options(ood_quantile=0.9))
    assert np.array_equal(energy, negative_energy(logits))
    near = ood_scores(tmp_path, "pool", logits, options(ood_quantile=0.9, ood_neighbors=1))
    assert near[:4] == pytest.approx(1, abs=1e-3)
    assert near[4] < 0.999
    with pytest.raises(UserError, match="ood_neighbors was 5, and there are 4 labeled images; lower it"):
        ood_scores(tmp_path, "pool", logits, options(ood_quantile=0.9, ood_neighbors=5))
