from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from noisy_student.training.forward import ForwardPasses
from noisy_student.training.micro_batch import MicroBatch
from noisy_student.training.objectives import (
    OBJECTIVES,
    combined,
    consistency,
    distillation,
    loss,
    pseudo_labels,
    weighted_cross_entropy,
)
from noisy_student.training.params import DistillationParams, Recipe

LABELED, POOL = 2, 3
IMAGES = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
FROM_POOL = torch.tensor([0.0] * LABELED + [1.0] * POOL)
TARGETS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.2, 0.2, 0.6], [0.5, 0.5, 0], [0, 0, 1]])
TEACHER = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [4, 0, 0], [0, 5, 0]])
LOGITS = torch.tensor([[0.0, 1, 2], [3, 0, 0], [9, 0, 0], [0, 9, 0], [1.1, 1, 1], [0.5, 0, 1], [1, 2, 3], [0, 0.5, 2]])


def part(weights=None) -> MicroBatch:
    """Pool image 2 and 3 are surely classes 0 and 1 where weakly noised, image 4 could be any."""
    weak = IMAGES[LABELED:]  # image number i: the logits are LOGITS[i], and those of its strong view LOGITS[i + 3]
    return MicroBatch(
        IMAGES + 3, TARGETS, torch.full((5,), 0.2) if weights is None else weights, FROM_POOL, weak, TEACHER
    )


def said(images: torch.Tensor) -> torch.Tensor:
    return LOGITS[images.flatten().long()]


STUDENT = ForwardPasses(said, said)
OF_STUDENTS = [name for name, objective in OBJECTIVES.items() if objective.of_students]


def params(make_recipe, **changed):
    return make_recipe(**{"consistency_threshold": 0.8, "consistency_temperature": 0.0, **changed})


def test_cross_entropy_is_torchs_for_hard_and_soft_targets():
    logits, labels = torch.randn(8, 3, generator=torch.manual_seed(0)), torch.arange(8) % 3
    hard, soft = F.one_hot(labels, 3).float(), torch.softmax(torch.randn(8, 3), dim=1)
    even = torch.full((8,), 1 / 8)
    assert torch.allclose(weighted_cross_entropy(logits, hard, even), F.cross_entropy(logits, labels))
    assert torch.allclose(weighted_cross_entropy(logits, soft, even), F.cross_entropy(logits, soft))
    uneven = torch.tensor([0.5, 0.5, 0, 0, 0, 0, 0, 0])
    assert torch.allclose(weighted_cross_entropy(logits, soft, uneven), F.cross_entropy(logits[:2], soft[:2]))


def test_pseudo_labels_are_learned_as_they_are(make_recipe):
    expected = F.cross_entropy(LOGITS[3:], TARGETS)
    assert torch.allclose(pseudo_labels(STUDENT, part(), params(make_recipe)), expected)


def test_consistency_teaches_sure_labels_of_its_own_and_never_those_of_the_teacher(make_recipe):
    own = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]])
    expected = F.cross_entropy(LOGITS[3:7], own, reduction="sum") / 5  # the last image is not sure
    assert torch.allclose(consistency(STUDENT, part(), params(make_recipe)), expected)


def test_sharpened_labels_are_between_the_probabilities_and_the_hard_ones(make_recipe):
    losses = [
        consistency(STUDENT, part(), params(make_recipe, consistency_threshold=0.0, consistency_temperature=each))
        for each in (0.0, 1e-3, 0.4, 1.0)
    ]
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] != losses[2] != losses[3]


def test_what_is_combined_is_the_teacher_where_the_model_is_not_sure(make_recipe):
    assert torch.allclose(
        combined(STUDENT, part(), params(make_recipe, consistency_threshold=1.0)),
        pseudo_labels(STUDENT, part(), params(make_recipe)),
    )
    half = TARGETS.clone()
    half[2], half[3] = (TARGETS[2] + torch.eye(3)[0]) / 2, (TARGETS[3] + torch.eye(3)[1]) / 2
    assert torch.allclose(combined(STUDENT, part(), params(make_recipe)), F.cross_entropy(LOGITS[3:], half))


@pytest.mark.parametrize("name", OF_STUDENTS)
def test_every_objective_learns_in_one_pass_and_labels_in_at_most_one_without_noise(make_recipe, name):
    seen = []

    def learned(images: torch.Tensor) -> torch.Tensor:
        seen.append(("learned", len(images)))
        return said(images).requires_grad_()

    def labeled(images: torch.Tensor) -> torch.Tensor:
        seen.append(("labeled", len(images)))
        return said(images)

    OBJECTIVES[name].loss(ForwardPasses(learned, labeled), part(), params(make_recipe)).backward()
    assert sorted(seen) == [("labeled", POOL)] * OBJECTIVES[name].online_labels + [("learned", 5)]


@pytest.mark.parametrize("name", OF_STUDENTS)
def test_where_no_image_is_from_the_pool_every_objective_learns_the_labels(make_recipe, name):
    labels = MicroBatch(IMAGES, TARGETS, torch.full((5,), 0.2), torch.zeros(5))
    lost = OBJECTIVES[name].loss(ForwardPasses(said, pytest.fail), labels, params(make_recipe))
    assert torch.allclose(lost, F.cross_entropy(LOGITS[:5], TARGETS))


@pytest.fixture
def distilled(make_recipe):
    """The recipe of a distilled model, but for what is changed."""

    def recipe(**changed) -> Recipe:
        options = {"images": "both", "kind": "soft", "temperature": 1.0, "weight": 0.3, **changed}
        return make_recipe().model_copy(update={"distillation": DistillationParams(**options)})

    return recipe


def test_a_distilled_model_learns_the_teachers_probabilities_and_of_labeled_images_also_the_truth(distilled):
    given, ours = part(), LOGITS[3:]
    true = F.cross_entropy(ours, TARGETS, reduction="none")
    told = (TEACHER.softmax(1) * (TEACHER.log_softmax(1) - ours.log_softmax(1))).sum(1)
    expected = torch.cat([0.7 * true[:LABELED] + 0.3 * told[:LABELED], told[LABELED:]]).mean()
    assert torch.allclose(distillation(STUDENT, given, distilled()), expected)


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn_from_it_at_any_temperature(distilled):
    same = ForwardPasses(lambda images: TEACHER, pytest.fail)
    for temperature in (1.0, 4.0, 8.0):
        assert float(distillation(same, part(), distilled(temperature=temperature, weight=1.0))) == pytest.approx(0)


def test_the_gradients_of_a_high_temperature_are_those_of_matched_logits(distilled):
    """As T grows they become (z - v) / K for logits z and v, whose means are 0 (Hinton et al. 2015, section 2.1)."""
    ours = torch.tensor([[0.3, -0.1, -0.2]], requires_grad=True)
    theirs = torch.tensor([[0.9, -0.4, -0.5]])
    one = MicroBatch(IMAGES[:1], theirs.softmax(1), torch.ones(1), torch.ones(1), None, theirs)
    distillation(ForwardPasses(lambda images: ours, pytest.fail), one, distilled(temperature=1000.0)).backward()
    assert torch.allclose(ours.grad, (ours - theirs).detach() / 3, atol=1e-3)


def test_hard_labels_of_a_teacher_are_its_most_probable_classes(distilled):
    expected = F.cross_entropy(LOGITS[3:], TEACHER.argmax(1))
    assert torch.allclose(distillation(STUDENT, part(), distilled(kind="hard", weight=1.0)), expected)


def test_without_weight_the_teacher_tells_of_the_pool_alone(distilled):
    other = replace(part(), teacher_logits=TEACHER.flip(1))
    true = F.cross_entropy(LOGITS[3:5], TARGETS[:2], reduction="none").sum() / 5
    assert float(distillation(STUDENT, other, distilled(weight=0.0))) > float(true)
    labels = replace(other, from_pool=torch.zeros(5))
    assert torch.allclose(distillation(STUDENT, labels, distilled(weight=0.0)), F.cross_entropy(LOGITS[3:], TARGETS))


def test_a_recipe_says_which_loss_it_is(make_recipe, distilled):
    recipe = make_recipe(objective="pseudo_labels")
    assert torch.equal(loss(STUDENT, part(), recipe), pseudo_labels(STUDENT, part(), recipe))
    assert torch.equal(loss(STUDENT, part(), distilled()), distillation(STUDENT, part(), distilled()))
