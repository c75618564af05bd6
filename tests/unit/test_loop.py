import os
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save

from noisy_student.core.errors import UserError
from noisy_student.core.files import read_csv, read_json
from noisy_student.core.metrics import fit_temperature, one_hot
from noisy_student.core.progress import Meter
from noisy_student.core.signals import Stopped
from noisy_student.models.checkpoint import save_model
from noisy_student.models.classifier import Classifier, load_classifier, new_classifier
from noisy_student.models.device import RuntimeParams
from noisy_student.models.features import features_of
from noisy_student.models.init import from_pretrained
from noisy_student.models.prediction import predict_logits
from noisy_student.pseudo_labeling.selection import PseudoLabelParams, make, softened
from noisy_student.store.pseudo_labels import predicted
from noisy_student.store.selection import Selection
from noisy_student.training.batches import Batches
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.loop import Trainer, TrainingData, TrainingRun, fit, report_steps, save_trained
from noisy_student.training.recipes import IterationParams, TeacherParams, iteration_recipe, teacher_recipe
from noisy_student.training.state import TrainState

CPU = torch.device("cpu")
NOISE = {"operations": 2, "magnitude": 15.0, "crop": 1, "flip": True, "cutout": 0.3, "dropout": 0.3}
PSEUDO_LABELS = {"kind": "soft", "calibrate": True, "threshold": 0.5, "balance": True}


def as_bytes(classifier: Classifier) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in classifier.state_dict().items()})


def teacher_logits(labels: np.ndarray, seed: int) -> np.ndarray:
    """Those of an overconfident teacher that is right now and then, and prefers the first class."""
    noise = np.random.default_rng(seed).normal(scale=4, size=(len(labels), 3))
    return (noise + 4 * one_hot(labels, 3) + [2, 0, 0]).astype(np.float32)


def with_features(data: TrainingData, model: str, weights: Path, runtime: RuntimeParams) -> TrainingData:
    body = from_pretrained(model, data.labeled, 0.0, 0.0, weights, CPU)

    def selection(images) -> Selection:
        return Selection([features_of(body, images, runtime)], np.arange(len(images)))

    pool = replace(data.pool, features=selection(data.pool.images))
    return replace(data, pool=pool, features=selection(data.labeled.selection()))


@pytest.fixture(scope="module")
def run(make_recipe, make_split, runtime):
    """Trains on 30 labeled images, and on 100 of the pool where it is given pseudo-labels."""

    def train(
        recipe, pool=None, seed=0, name="iter1", validation=(400, 450), checkpoints=None, init_from=None, **setting
    ):
        precision = runtime.model_copy(update=setting)
        data = TrainingData(make_split(0, 30), make_split(*validation), pool)
        if recipe.training.initial == "pretrained":
            data = with_features(data, recipe.model, init_from, precision)
        return fit(TrainingRun(name, recipe, precision, CPU, seed, init_from), data, checkpoints)

    return train


@pytest.fixture(scope="module")
def make_pool(make_split):
    """Images, targets and copies of what the pseudo-label options keep of the pool."""

    def pool(**changed):
        params = PseudoLabelParams(**{**PSEUDO_LABELS, **changed})
        images, calibration = make_split(100, 200), make_split(300, 400)
        temperature = 1.0
        if params.calibrate:
            temperature = fit_temperature(teacher_logits(calibration.labels, 1), calibration.labels)
        logits = Selection([teacher_logits(images.labels, 0)], np.arange(len(images)))
        made = make(predicted(logits, temperature), params, np.random.default_rng(0))
        made = softened(made, logits, temperature, params)
        return LabeledImages.from_pseudo_labels(images, made)

    return pool


@pytest.fixture(scope="module")
def loss(make_recipe, make_pool, run):
    """The mean loss of a short run with all noise and all target options on, but for what is changed."""

    @cache
    def of(kind="", option="", value=None, model="mlp_16") -> float:
        changed = {option: value} if option else {}
        noise = {**NOISE, "stochastic_depth": 0.3 if model != "mlp_16" else 0.0}
        recipe = make_recipe(
            model,
            {**noise, **(changed if kind == "noise" else {})},
            **{
                "steps": 3,
                "label_smoothing": 0.1,
                "consistency_threshold": 0.3,
                **(changed if kind == "training" else {}),
            },
        )
        return run(recipe, make_pool(**(changed if kind == "target" else {}))).curve[-1]["loss"]

    return of


@pytest.mark.parametrize("model", ["mlp_16", "cnn_4"])
def test_the_loss_falls_and_the_model_learns_the_digits(run, make_recipe, model):
    curve = run(make_recipe(model, steps=60, validations=4, ema_decay=0.9)).curve
    losses = [row["loss"] for row in curve]
    assert [row["step"] for row in curve] == [15, 30, 45, 60]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 4
    assert curve[-1]["validation_accuracy"] > 0.85


def test_a_student_learns_from_pseudo_labels_with_all_noise_on(run, make_recipe, make_pool):
    recipe = make_recipe("cnn_4", {**NOISE, "stochastic_depth": 0.2}, steps=100, ema_decay=0.9)
    assert run(recipe, make_pool(), precision="bfloat16").curve[-1]["validation_accuracy"] > 0.6


@pytest.mark.parametrize("model", ["mlp_16", "cnn_4"])
def test_the_same_seed_and_name_give_the_same_bytes_and_others_do_not(run, make_recipe, make_pool, model):
    recipe = make_recipe(model, {**NOISE, "stochastic_depth": 0.3 if model == "cnn_4" else 0.0})
    first, second = run(recipe, make_pool()), run(recipe, make_pool())
    assert as_bytes(first.classifier) == as_bytes(second.classifier)
    assert first.curve == second.curve
    assert as_bytes(first.classifier) != as_bytes(run(recipe, make_pool(), seed=1).classifier)
    assert as_bytes(first.classifier) != as_bytes(run(recipe, make_pool(), name="iter2").classifier)


def test_model_noise_of_a_step_does_not_depend_on_what_was_drawn_before(run, make_recipe, monkeypatch):
    recipe = make_recipe("cnn_2", {"dropout": 0.5, "stochastic_depth": 0.5})
    undisturbed = run(recipe).classifier
    monkeypatch.setattr(Meter, "advance", lambda meter, images: torch.rand(3))
    assert as_bytes(run(recipe).classifier) == as_bytes(undisturbed)


def test_a_student_without_a_pool_is_the_teacher(run, make_recipe):
    plain = make_recipe("mlp_16", NOISE)
    student = IterationParams(teacher="iter0", model="mlp_16", noise={"crop": 2}, training={"steps": 5})
    teacher = TeacherParams(model="mlp_16", noise=make_recipe(noise={**NOISE, "crop": 2}).noise, training={"steps": 5})
    by_student = run(iteration_recipe(plain.noise, plain.training, student, "iter1"))
    by_teacher = run(teacher_recipe(plain.training, teacher))
    assert as_bytes(by_student.classifier) == as_bytes(by_teacher.classifier)
    assert by_student.curve == by_teacher.curve


def test_held_out_images_do_not_enter_the_weights(run, make_recipe):
    recipe = make_recipe("cnn_2", NOISE, validations=6)
    one, other = run(recipe, validation=(400, 450)), run(recipe, validation=(450, 460))
    assert as_bytes(one.classifier) == as_bytes(other.classifier)
    assert one.curve != other.curve


@pytest.mark.parametrize("accumulation", [2, 8])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(run, make_recipe, make_pool, accumulation):
    input_noise = {**NOISE, "dropout": 0.0}
    sgd = {"optimizer": "sgd", "learning_rate": 0.1}
    whole = run(make_recipe(noise=input_noise, **sgd), make_pool())
    parts = run(make_recipe(noise=input_noise, accumulation=accumulation, **sgd), make_pool())
    assert parts.curve[-1]["loss"] == pytest.approx(whole.curve[-1]["loss"], rel=1e-4)
    for one, other in zip(*(each.classifier.state_dict().values() for each in (whole, parts)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kind_option_value", [
    ("noise", "operations", 0), ("noise", "magnitude", 0.0), ("noise", "crop", 0), ("noise", "flip", False),
    ("noise", "cutout", 0.0), ("noise", "fill", 128), ("noise", "dropout", 0.0),
    ("target", "kind", "hard"), ("target", "calibrate", False), ("target", "threshold", 0.0),
    ("target", "balance", False),
    ("training", "label_smoothing", 0.0), ("training", "pool_weight", 0.5), ("training", "pool_ratio", 1.0),
    ("training", "learning_rate", 0.001), ("training", "optimizer", "sgd"), ("training", "weight_decay", 1.0),
    ("training", "warmup", 0.9), ("training", "momentum", 0.0), ("training", "objective", "consistency"),
    ("training", "objective", "combined"), ("training", "finetune", 0.4), ("noise", "mix", "mixup"),
    ("training", "optimizer", "muon"), ("training", "resolution_fix", 0.4),
    ("noise", "affine", 10.0), ("noise", "jitter", 10.0),
    ("noise", "mix", "cutmix"), ("noise", "mix", "fmix"),
], ids=lambda switched: switched[1])  # fmt: skip
def test_every_option_of_noise_targets_and_training_tells_on_the_loss(loss, kind_option_value):
    assert loss(*kind_option_value) != loss()


def test_the_resolution_of_training_tells_on_the_loss(loss):
    assert loss("training", "resolution", 0.75, model="wrn_10_1") != loss(model="wrn_10_1")


def test_stochastic_depth_tells_on_the_loss(loss):
    assert loss("noise", "stochastic_depth", 0.0, model="cnn_2") != loss(model="cnn_2")


@pytest.mark.parametrize("learning_rate", [1e4, 1e30])
def test_a_loss_that_is_no_longer_finite_is_refused(run, make_recipe, learning_rate):
    with pytest.raises(UserError, match=r"loss became (nan|inf); lower training.learning_rate"):
        run(make_recipe("mlp_16", optimizer="sgd", learning_rate=learning_rate, steps=40))


def test_weights_that_the_last_step_made_infinite_are_refused(run, make_recipe):
    with pytest.raises(UserError, match=r"loss became (nan|inf)"):
        run(make_recipe("mlp_16", optimizer="sgd", learning_rate=1e38, weight_decay=1e3, steps=1))


def test_targets_that_are_no_numbers_are_refused(run, make_recipe, make_pool):
    pool = make_pool()
    with pytest.raises(UserError, match="loss became nan"):
        run(make_recipe(), replace(pool, targets=np.full_like(pool.targets[:], np.nan)))


@pytest.mark.parametrize(("steps", "validations"), [(6, 1), (6, 4), (100, 10), (3, 10)])
def test_the_learning_curve_ends_with_the_last_step(make_recipe, steps, validations):
    reported = report_steps(make_recipe(steps=steps, validations=validations).training) - {0}
    assert max(reported) == steps
    assert len(reported) == min(steps, validations)


def test_what_is_returned_are_the_averaged_weights_in_eval_mode(run, make_recipe):
    last = run(make_recipe("cnn_2", steps=12)).classifier
    smooth = run(make_recipe("cnn_2", steps=12, ema_decay=0.9)).classifier
    assert not last.training
    assert not smooth.training
    assert not torch.equal(last.network.classifier.weight, smooth.network.classifier.weight)
    assert all(torch.isfinite(tensor).all() for tensor in smooth.state_dict().values())


def test_a_saved_model_says_what_it_is_and_predicts_as_it_did(tmp_path, run, runtime, make_recipe, make_split):
    labeled, validation = make_split(0, 30), make_split(400, 450)
    recipe = make_recipe("mlp_16", NOISE, validations=3)
    trained = run(recipe)
    save_trained(tmp_path, trained, TrainingData(labeled, validation))
    loaded, description = load_classifier(tmp_path, CPU)
    logits = predict_logits(loaded, validation.images(), runtime)
    assert np.array_equal(logits, predict_logits(trained.classifier, validation.images(), runtime))
    right = np.mean(logits.argmax(axis=1) == validation.labels)
    assert description["validation"]["accuracy"] == pytest.approx(right)
    assert description["validation"]["accuracy_low"] <= right <= description["validation"]["accuracy_high"]
    assert description["labels"] == {"training": 30, "validation": 50}
    assert description["parameters"] == sum(parameter.numel() for parameter in trained.classifier.parameters())
    assert description["noise"] == recipe.noise.model_dump()
    assert description["training"] == recipe.training.model_dump()
    assert description["normalization"]["mean"] == pytest.approx([labeled.images().mean() / 255], rel=1e-5)
    assert read_json(tmp_path / "model.json") == description
    pd.testing.assert_frame_equal(read_csv(tmp_path / "curve.csv"), pd.DataFrame(trained.curve))


def test_the_same_run_saves_the_same_bytes(tmp_path, run, make_recipe, make_split):
    recipe = make_recipe("mlp_16", NOISE)
    for name in ("one", "two"):
        save_trained(tmp_path / name, run(recipe), TrainingData(make_split(0, 30), make_split(400, 450)))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.fixture
def at_step(monkeypatch):
    """Does something in the middle of a step of the next runs, and a checkpoint after every step."""
    monkeypatch.setenv("NOISY_STUDENT_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr("noisy_student.models.checkpoint.SHARE", 1e9)

    parts = Batches.parts

    def arrange(number, happening):
        def draw(batches, step):
            if step == number:
                happening()
            return parts(batches, step)

        monkeypatch.setattr(Batches, "parts", draw)

    yield arrange
    monkeypatch.undo()


def die() -> None:
    raise RuntimeError("killed")


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        ("mlp_16", {}),
        ("cnn_4", {"accumulation": 2}),
        ("cnn_4", {"optimizer": "sgd", "learning_rate": 0.1}),
        ("cnn_4", {"ema_decay": 0, "validations": 1}),
        ("cnn_4", {"optimizer": "muon"}),
        ("cnn_4", {"finetune": 0.25, "resolution_fix": 0.25}),
        ("cnn_4", {"initial": "pretrained", "frozen": 0.4, "layer_decay": 0.5}),
        ("cnn_4", {"initial": "pretrained", "frozen": 1.0}),
    ],
)
@pytest.mark.parametrize("step", [0, 1, 5, 11])
def test_a_run_that_was_killed_goes_on_to_the_bytes_of_the_uninterrupted_one(
    tmp_path, run, make_recipe, make_pool, make_split, at_step, model, changed, step
):
    noise = {**NOISE, "stochastic_depth": 0.3 if model == "cnn_4" else 0.0}
    recipe = make_recipe(model, noise, **{"steps": 12, "validations": 4, "ema_decay": 0.9, "warmup": 0.2, **changed})
    torch.manual_seed(3)
    normalization = {"normalization": {"mean": [0.5], "std": [0.3]}}
    weights = {"model": model, "input_channels": 1, "input_size": [8, 8], **normalization}
    save_model(tmp_path / "weights", new_classifier(model, make_split(0, 30)).state_dict(), weights)
    init_from = {"init_from": tmp_path / "weights"}
    whole = run(recipe, make_pool(), **init_from)
    at_step(step, die)
    with pytest.raises(RuntimeError, match="killed"):
        run(recipe, make_pool(), checkpoints=tmp_path / "run", **init_from)
    seen = []
    at_step(step, lambda: seen.append(step))
    resumed = run(recipe, make_pool(), checkpoints=tmp_path / "run", **init_from)
    assert len(list((tmp_path / "run").iterdir())) == 2
    assert as_bytes(resumed.classifier) == as_bytes(whole.classifier)
    assert pd.DataFrame(resumed.curve).to_csv() == pd.DataFrame(whole.curve).to_csv()  # in the same order, too
    assert seen == [step]


def test_what_was_done_before_is_not_done_again(tmp_path, run, make_recipe, at_step):
    at_step(5, die)
    with pytest.raises(RuntimeError):
        run(make_recipe(steps=12), checkpoints=tmp_path)
    at_step(4, lambda: pytest.fail("a step was done twice"))
    run(make_recipe(steps=12), checkpoints=tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    tmp_path, run, make_recipe, monkeypatch, at_step, number
):
    monkeypatch.setenv("NOISY_STUDENT_CHECKPOINT_SECONDS", "1000")
    recipe = make_recipe("cnn_4", NOISE, steps=12, ema_decay=0.9)
    whole = run(recipe)
    at_step(6, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Stopped, match="after step 7 of 12") as stopped:
        run(recipe, checkpoints=tmp_path)
    assert stopped.value.signal == number
    assert [file.name[:14] for file in tmp_path.iterdir()] == ["step-000000007"]
    at_step(6, lambda: pytest.fail("a step was done twice"))
    resumed = run(recipe, checkpoints=tmp_path)
    assert as_bytes(resumed.classifier) == as_bytes(whole.classifier)


def test_a_damaged_checkpoint_falls_back_to_the_one_before_aloud(tmp_path, run, make_recipe, at_step, capsys):
    whole = run(make_recipe(steps=12))
    at_step(8, die)
    with pytest.raises(RuntimeError):
        run(make_recipe(steps=12), checkpoints=tmp_path)
    last = max(tmp_path.iterdir())
    last.write_bytes(last.read_bytes()[:-1])
    seen = []
    at_step(7, lambda: seen.append(7))
    resumed = run(make_recipe(steps=12), checkpoints=tmp_path)
    assert "is damaged" in capsys.readouterr().out
    assert seen == [7]
    assert as_bytes(resumed.classifier) == as_bytes(whole.classifier)


PLAIN = {"channels_last": False, "fused": False, "compile": False, "precision": "float32"}


@pytest.mark.parametrize(
    ("fast", "tolerance"),  # a fraction of the way from the initial weights
    [
        ({}, 0),
        ({"fused": True}, 1e-5),
        ({"channels_last": True}, 1e-5),
        ({"channels_last": True, "fused": True}, 1e-5),
        ({"precision": "bfloat16"}, 0.25),  # eight bits of a product, over eight steps
        pytest.param({"compile": True}, 1e-5, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("objective", ["pseudo_labels", "combined"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_every_fast_path_trains_to_the_weights_of_the_plain_one(
    run, make_recipe, make_pool, monkeypatch, fast, tolerance, optimizer, objective
):
    model_noise = {"dropout": 0.3, "stochastic_depth": 0.3}
    if "compile" in fast:  # a compiled network draws its model noise in another way
        model_noise = {"dropout": 0.0, "stochastic_depth": 0.0}
    recipe = make_recipe(
        "cnn_4", {**NOISE, **model_noise}, steps=8, optimizer=optimizer, learning_rate=1e-3, objective=objective
    )
    if optimizer == "muon" and fast.keys() & {"channels_last", "compile"}:  # gradients that are summed in another order
        # differ in their last bits, and Muon rounds them to bfloat16
        tolerance = 0.02
    fast_run = run(recipe, make_pool(), **{**PLAIN, **fast})
    monkeypatch.setenv("NOISY_STUDENT_STEPS_AHEAD", "1")
    plain, other_seed = run(recipe, make_pool(), **PLAIN), run(recipe, make_pool(), seed=1, **PLAIN)
    start = run(recipe.model_copy(update={"training": barely(recipe)}), make_pool(), **PLAIN)
    path = distance(plain, start)
    assert distance(fast_run, plain) <= max(tolerance * path, 1e-12)
    assert distance(other_seed, plain) > 2 * tolerance * path  # what the tolerance would not let pass


def barely(recipe):
    """A training that leaves the initial weights all but as they are."""
    return recipe.training.model_copy(update={"steps": 1, "learning_rate": 1e-12, "validations": 1})


def distance(one, other) -> float:
    """Between the trained weights of two runs; running statistics are none."""
    pairs = zip(one.classifier.parameters(), other.classifier.parameters(), strict=True)
    return float(torch.cat([(a - b).detach().flatten() for a, b in pairs]).norm())


def test_switches_of_fast_paths_do_what_they_say(make_recipe, make_split):
    classifier, training = new_classifier("cnn_4", make_split(0, 30)), make_recipe().training
    for fused in (True, False):
        assert TrainState.start(classifier, training, fused).optimizer.param_groups[0]["fused"] == fused
    weight = classifier.network.features[1][0].weight
    for memory_format in (torch.channels_last, torch.contiguous_format):
        classifier.to_memory_format(memory_format)
        assert weight.is_contiguous(memory_format=memory_format)


def test_a_compiler_that_is_not_there_is_said_in_a_sentence(run, make_recipe, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("nonexistent",))
    with pytest.raises(UserError, match=r"torch.compile failed \(.*\); set runtime.compile to false"):
        run(make_recipe("cnn_2", {}, steps=1), compile=True)


def test_the_last_phase_trains_the_deep_half_alone_without_model_noise(make_recipe, make_split, runtime):
    recipe, labeled = make_recipe("cnn_4", {"dropout": 0.5}, steps=2, resolution_fix=0.5), make_split(0, 30)
    classifier = new_classifier("cnn_4", labeled, dropout=0.5, stochastic_depth=0.5)
    state = TrainState.start(classifier, recipe.training, fused=True)
    trainer = Trainer(recipe, TrainingData(labeled, labeled).placed(CPU), runtime, seed=0)
    batches = Batches(recipe, trainer.data.labeled, None, 0)
    moved = []
    for _ in range(2):
        before = [weight.detach().clone() for weight in classifier.parameters()]
        trainer.take_step(state, batches)
        moved.append([not torch.equal(*pair) for pair in zip(before, classifier.parameters(), strict=True)])
    half = len(moved[0]) // 2
    assert moved == [[True] * len(moved[0]), [False] * half + [True] * (len(moved[0]) - half)]
    assert {type(module).__name__ for module in classifier.modules() if module.training} == {"BatchNorm2d"}


def test_a_student_may_begin_with_the_weights_of_its_teacher(tmp_path, run, make_recipe, make_split):
    data = TrainingData(make_split(0, 30), make_split(400, 450))
    teacher = run(make_recipe("cnn_4", steps=40))
    save_trained(tmp_path, teacher, data)
    barely = {"steps": 1, "learning_rate": 1e-6}
    warm = run(make_recipe("cnn_4", initial="warm", **barely), init_from=tmp_path)
    drawn = run(make_recipe("cnn_4", initial="scratch", **barely), init_from=tmp_path)
    weight = "network.classifier.weight"
    assert torch.allclose(warm.classifier.state_dict()[weight], teacher.classifier.state_dict()[weight], atol=1e-4)
    assert not torch.allclose(drawn.classifier.state_dict()[weight], teacher.classifier.state_dict()[weight], atol=0.1)


def test_the_members_of_a_model_differ_and_their_mean_is_the_model(tmp_path, run, runtime, make_recipe, make_split):
    recipe = make_recipe("cnn_4", NOISE, steps=10, validations=2).model_copy(update={"ensemble_size": 3})
    trained, images = run(recipe, name="iter1"), make_split(400, 450).images()
    logits = predict_logits(trained.classifier, images, runtime)
    assert [row["step"] for row in trained.curve] == [5, 10]
    alone = []
    for member in trained.classifier.network.members:
        one = Classifier(member, trained.classifier.mean, trained.classifier.std)
        alone.append(predict_logits(one, images, runtime))
    assert not np.allclose(alone[0], alone[1], atol=1e-2)
    assert np.allclose(logits, np.mean(alone, axis=0), atol=1e-5)
    right = np.mean(logits.argmax(axis=1) == make_split(400, 450).labels)
    assert trained.curve[-1]["validation_accuracy"] == pytest.approx(right)
    save_trained(tmp_path, trained, TrainingData(make_split(0, 30), make_split(400, 450)))
    loaded, description = load_classifier(tmp_path, CPU)
    assert description["ensemble_size"] == 3
    assert np.array_equal(predict_logits(loaded, images, runtime), logits)


@pytest.mark.parametrize("step", [0, 7])
def test_a_model_of_several_members_goes_on_where_it_was_killed(tmp_path, run, make_recipe, at_step, step):
    recipe = make_recipe("cnn_4", NOISE, steps=8).model_copy(update={"ensemble_size": 2})
    whole = run(recipe)
    seen = []

    def die_in_the_second() -> None:
        seen.append(step)
        if len(seen) == 2:
            die()

    at_step(step, die_in_the_second)
    with pytest.raises(RuntimeError, match="killed"):
        run(recipe, checkpoints=tmp_path)
    resumed = run(recipe, checkpoints=tmp_path)
    assert len(seen) == 3  # the first member was not trained again
    assert as_bytes(resumed.classifier) == as_bytes(whole.classifier)
