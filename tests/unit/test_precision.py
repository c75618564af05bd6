import pytest
import torch
from torch import nn

from noisy_student.models import device, precision
from noisy_student.models.classifier import new_classifier
from noisy_student.models.device import RuntimeParams, processor
from noisy_student.models.precision import autocast, settled
from noisy_student.models.prediction import predict_logits

CPU = torch.device("cpu")
PLAIN = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3))
GROUPED = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=8))


def with_precision(runtime: RuntimeParams, value: str) -> RuntimeParams:
    return RuntimeParams(**{**runtime.model_dump(), "precision": value})


@pytest.fixture
def has_instructions(monkeypatch):
    """A processor that has these instructions for bfloat16."""

    def has(*names: str) -> None:
        monkeypatch.setattr(device, "_of_processor", {"model name": "Some CPU", "flags": " ".join(("sse", *names))}.get)

    return has


@pytest.mark.parametrize(("value", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_forward_pass_runs_at_the_precision_asked_for(runtime, value, dtype):
    layer = nn.Linear(2, 2)
    with autocast(with_precision(runtime, value), CPU):
        assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("instructions", "plain", "grouped", "grouped_labeling"),
    [
        ((), "float32", "float32", "float32"),
        (("avx512_bf16",), "bfloat16", "float32", "bfloat16"),
        (("amx_bf16",), "bfloat16", "float32", "bfloat16"),
    ],
)
def test_auto_is_the_faster_precision_of_the_processor_the_network_and_the_work(
    runtime, has_instructions, instructions, plain, grouped, grouped_labeling
):
    has_instructions(*instructions)
    auto = with_precision(runtime, "auto")
    assert settled(auto, PLAIN, CPU, "training").precision == plain
    assert settled(auto, PLAIN, CPU, "labeling").precision == plain
    assert settled(auto, GROUPED, CPU, "training").precision == grouped
    assert settled(auto, GROUPED, CPU, "labeling").precision == grouped_labeling


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_auto_on_a_gpu_is_bfloat16_where_the_hardware_has_it(runtime, monkeypatch, has_bfloat16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    found = settled(with_precision(runtime, "auto"), PLAIN, torch.device("cuda"), "training").precision
    assert found == ("bfloat16" if has_bfloat16 else "float32")


@pytest.mark.parametrize("value", ["float32", "bfloat16"])
def test_a_precision_that_is_named_is_kept(runtime, has_instructions, value):
    has_instructions()
    assert settled(with_precision(runtime, value), PLAIN, CPU, "training").precision == value


def test_what_decides_the_precision_is_part_of_the_machine(has_instructions):
    has_instructions()
    without = processor()
    has_instructions("avx512_bf16")
    assert processor() == f"{without}, avx512_bf16"


def test_predictions_settle_the_precision(runtime, make_split, monkeypatch):
    split, auto = make_split(0, 20), with_precision(runtime, "auto")
    classifier = new_classifier("cnn_4", split)
    found = {}
    for value in ("float32", "bfloat16"):
        monkeypatch.setattr(precision, "fastest", lambda network, device, work, value=value: value)
        found[value] = predict_logits(classifier, split.images(), auto)
        assert (found[value] == predict_logits(classifier, split.images(), with_precision(runtime, value))).all()
    assert (found["float32"] != found["bfloat16"]).any()


def test_a_precision_that_nobody_settled_is_a_mistake(runtime):
    with pytest.raises(ValueError, match="settled"):
        autocast(with_precision(runtime, "auto"), CPU)
