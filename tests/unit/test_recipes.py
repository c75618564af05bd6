from contextlib import nullcontext
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisy_student.core.config import overlay
from noisy_student.core.errors import UserError
from noisy_student.models.prediction import TTA, LabelingParams
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.objectives import OBJECTIVES, check_objective
from noisy_student.training.params import labeled_in_batch
from noisy_student.training.recipes import (
    OF_SOME_OBJECTIVES,
    STUDENTS_ALONE,
    ControlParams,
    DistillationParams,
    DistilledParams,
    IterationParams,
    PoolControlParams,
    Recipe,
    TeacherParams,
    control_recipe,
    distilled_recipe,
    iteration_recipe,
    pool_control_recipe,
    teacher_recipe,
)


@pytest.fixture
def defaults(make_recipe):
    return make_recipe(noise={"dropout": 0.5, "crop": 2}, steps=100, batch_size=16)


def test_the_teacher_has_the_default_training_and_noise_of_its_own(defaults, make_recipe):
    teacher = TeacherParams(model="cnn_4", noise=make_recipe(noise={"crop": 1}).noise, training={"steps": 7})
    recipe = teacher_recipe(defaults.training, teacher)
    assert (recipe.model, recipe.training.steps, recipe.training.batch_size) == ("cnn_4", 7, 16)
    assert (recipe.noise.crop, recipe.noise.dropout) == (1, 0)


def test_an_iteration_replaces_the_defaults_that_it_names(defaults):
    iteration = IterationParams(teacher="iter0", model="cnn_8", noise={"crop": 3}, training={"learning_rate": 1})
    recipe = iteration_recipe(defaults.noise, defaults.training, iteration, "iter1")
    assert (recipe.model, recipe.training.learning_rate, recipe.training.steps) == ("cnn_8", 1, 100)
    assert (recipe.noise.crop, recipe.noise.dropout) == (3, 0.5)


def test_a_control_has_the_model_and_steps_of_its_iteration_and_noise_of_its_own(defaults, make_recipe):
    control = ControlParams(kind="supervised", of="iter1", noise=make_recipe().noise, training={"batch_size": 8})
    recipe = control_recipe(defaults.training, "cnn_8", control, "same_size")
    assert (recipe.model, recipe.training.steps, recipe.training.batch_size) == ("cnn_8", 100, 8)
    assert recipe.noise == make_recipe().noise


def test_the_names_that_params_may_have_are_those_that_there_are():
    def names(section, key: str) -> set[str]:
        return set(get_args(section.model_fields[key].annotation))

    check_objective("consistency", "training.objective")
    for name in ("distillation", "x"):
        with pytest.raises(UserError, match=r"training.objective was .*; it must be one of pseudo_labels, c"):
            check_objective(name, "training.objective")
    with pytest.raises(UserError, match=r"noise.mix was 'x'; it must be one of none, mixup, cutmix, fmix"):
        overlay(NoiseParams.none(), {"mix": "x"}, "noise")
    assert names(LabelingParams, "tta") == set(TTA)


@pytest.mark.parametrize("kind", ["unnoised", "oracle", "shuffled"])
def test_a_control_that_sees_the_pool_is_its_iteration_but_for_one_thing(defaults, kind):
    changed = {"training": {"objective": "combined"}, "noise": {"crop": 3}}
    iteration = IterationParams(teacher="iter0", model="cnn_8", **changed)
    whole = iteration_recipe(defaults.noise, defaults.training, iteration, "iter1")
    control = pool_control_recipe(
        defaults.noise, defaults.training, iteration, PoolControlParams(kind=kind, of="iter1")
    )
    assert control.model == whole.model
    assert control.noise == (NoiseParams.none() if kind == "unnoised" else whole.noise)
    assert control.training == whole.training


SOFTLY = DistillationParams(images="both", kind="soft", temperature=4, weight=0.9)


def distilled(defaults, **changed) -> Recipe:
    model = DistilledParams(teacher="iter1", model="cnn_4", **changed)
    return distilled_recipe(defaults.noise, defaults.training, SOFTLY, model, "small")


def test_a_distilled_model_replaces_the_defaults_that_it_names(defaults):
    changed = {"noise": {"crop": 3}, "training": {"steps": 7, "pool_ratio": 1}, "distillation": {"temperature": 2}}
    recipe = distilled(defaults, **changed)
    assert (recipe.model, recipe.noise.crop, recipe.noise.dropout) == ("cnn_4", 3, 0.5)
    assert (recipe.training.steps, recipe.training.pool_ratio, recipe.training.batch_size) == (7, 1, 16)
    assert recipe.distillation == SOFTLY.model_copy(update={"temperature": 2})


def test_how_students_learn_does_not_reach_a_distilled_model(defaults):
    students = {"objective": "combined", "finetune": 0.5, "initial": "warm"}
    whole = defaults.model_copy(update={"training": defaults.training.model_copy(update=students)})
    assert distilled(whole) == distilled(defaults)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"training": {"objective": "combined"}}, "small.training.objective has no effect, .* the teacher's logits"),
        ({"training": {"initial": "warm"}}, "small.training.initial was warm"),
        (
            {"training": {"pool_ratio": 2}, "distillation": {"images": "pool"}},
            "small.training.pool_ratio has no effect, .* images of one kind, pool",
        ),
        ({"distillation": {"kind": "hard"}}, "must have temperature 1 where kind is hard"),
        (
            {"distillation": {"images": "pool", "weight": 0.5}},
            "distillation.weight has no effect with distillation.images pool",
        ),
        (
            {"distillation": {"images": "labeled", "weight": 0, "temperature": 2}},
            "distillation.temperature has no effect with distillation.weight 0",
        ),
        ({"distillation": {"temprature": 2}}, "did you mean temperature"),
        ({"distillation": {"temperature": 1e300}}, "distillation.temperature was 1e.300"),
    ],
)
def test_options_without_a_meaning_for_a_distilled_model_are_refused(defaults, changed, said):
    with pytest.raises(UserError, match=said):
        distilled(defaults, **changed)


def test_a_control_of_a_warm_student_is_refused(defaults):
    iteration = IterationParams(teacher="iter0", model="cnn_8", training={"initial": "warm"})
    with pytest.raises(UserError, match=r"iter1 starts from its teacher's weights .* remove the control"):
        pool_control_recipe(defaults.noise, defaults.training, iteration, PoolControlParams(kind="oracle", of="iter1"))


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        ({"finetune": 0.5, "pool_ratio": 2.0}, "iter1.training.pool_ratio has no effect with finetune 0.5"),
        ({"consistency_threshold": 0.5}, "consistency_threshold has no effect with objective pseudo_labels"),
    ],
)
def test_an_option_that_another_one_makes_idle_is_refused(defaults, training, sentence):
    iteration = IterationParams(teacher="iter0", model="cnn_8", training=training)
    with pytest.raises(UserError, match=sentence):
        iteration_recipe(defaults.noise, defaults.training, iteration, "iter1")


def test_an_option_of_an_objective_is_refused_beside_every_other_one(defaults):
    for name, objective in OBJECTIVES.items():
        for option in OF_SOME_OBJECTIVES if objective.of_students else ():
            training = {"objective": name, option: getattr(defaults.training, option)}
            iteration = IterationParams(teacher="iter0", model="cnn_8", training=training)
            refused = pytest.raises(UserError, match=f"iter1.training.{option} has no effect with objective {name}")
            with nullcontext() if option in objective.options else refused:
                iteration_recipe(defaults.noise, defaults.training, iteration, "iter1")


def test_what_only_students_have_is_not_held_against_a_teacher(defaults):
    training = defaults.training.model_copy(update={"pool_ratio": 15.0, "finetune": 0.05})
    teacher = TeacherParams(model="cnn_8", noise=defaults.noise, training={"batch_size": 4, "steps": 4})
    assert teacher_recipe(training, teacher).training.batch_size == 4


@pytest.mark.parametrize("kind", ["oracle", "shuffled"])
def test_a_control_about_labels_that_its_iteration_does_not_learn_is_refused(defaults, kind):
    iteration = IterationParams(teacher="iter0", model="cnn_8", training={"objective": "consistency"})
    control = PoolControlParams(kind=kind, of="iter1")
    with pytest.raises(UserError, match=f"{kind} changes the teacher's labels, but iter1 learns from its own"):
        pool_control_recipe(defaults.noise, defaults.training, iteration, control)


@pytest.mark.parametrize("option", sorted(STUDENTS_ALONE))
def test_an_option_that_only_a_pool_gives_a_meaning_is_refused_elsewhere(defaults, option):
    training = {option: getattr(defaults.training, option)}
    with pytest.raises(UserError, match=f"teacher.training.{option} has no effect, .* remove it"):
        teacher_recipe(defaults.training, TeacherParams(model="cnn_8", noise=defaults.noise, training=training))
    control = ControlParams(kind="supervised", of="iter1", noise=defaults.noise, training=training)
    with pytest.raises(UserError, match=f"controls.plain.training.{option} has no effect"):
        control_recipe(defaults.training, "cnn_8", control, "plain")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"finetune": 0.01, "steps": 6}, "must leave steps before and after finetune 0.01 begins, of 6"),
        ({"finetune": 0.99, "steps": 6}, "must leave steps before and after finetune 0.99 begins, of 6"),
        ({"finetune": 0.5, "objective": "consistency"}, "must have finetune 0 with objective consistency"),
    ],
)
def test_a_finetuned_student_has_two_phases_that_both_teach_it(make_recipe, changed, sentence):
    with pytest.raises(UserError, match=sentence):
        make_recipe(**changed)


def test_an_unknown_key_of_an_override_is_named_in_full(defaults):
    def iteration(**overrides) -> IterationParams:
        return IterationParams(teacher="iter0", model="mlp", **overrides)

    with pytest.raises(UserError, match=r"teacher.training.step is unknown; did you mean steps\?"):
        teacher_recipe(defaults.training, TeacherParams(model="mlp", noise=defaults.noise, training={"step": 7}))
    with pytest.raises(UserError, match=r"iterations.iter2.noise.drop is unknown"):
        iteration_recipe(defaults.noise, defaults.training, iteration(noise={"drop": 0}), "iter2")
    with pytest.raises(UserError, match=r"iterations.iter2.training.steps was 0\.5"):
        iteration_recipe(defaults.noise, defaults.training, iteration(training={"steps": 0.5}), "iter2")
    control = ControlParams(kind="supervised", of="iter2", noise=defaults.noise, training={"Steps": 7})
    with pytest.raises(UserError, match=r"controls.same_size.training.Steps is unknown; did you mean steps\?"):
        control_recipe(defaults.training, "mlp", control, "same_size")


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"batch_size": 16, "accumulation": 3}, "such that accumulation 3 divides batch_size 16"),
        ({"batch_size": 4, "pool_ratio": 100}, "pool_ratio 100.0 is too high"),
    ],
)
def test_keys_that_do_not_go_together_are_refused_in_a_sentence(make_recipe, training, expected):
    with pytest.raises(UserError, match=expected) as caught:
        make_recipe(**training)
    assert "it must be should" not in str(caught.value)
    assert "  " not in str(caught.value)


@pytest.mark.parametrize(("batch", "ratio", "labeled"), [(128, 3, 32), (128, 1, 64), (70, 6, 10), (16, 0.5, 11)])
def test_the_pool_ratio_parts_the_batch(make_recipe, batch, ratio, labeled):
    assert labeled_in_batch(make_recipe(batch_size=batch, pool_ratio=ratio).training) == labeled


@given(batch=st.integers(1, 512), ratio=st.floats(0, 20))
def test_a_batch_has_labeled_and_pool_images_or_the_recipe_is_refused(make_recipe, batch, ratio):
    try:
        training = make_recipe(batch_size=batch, pool_ratio=ratio).training
    except UserError:
        assert not 0.5 < batch / (1 + ratio) < batch - 0.5 or batch == 1
    else:
        assert 1 <= labeled_in_batch(training) < batch
