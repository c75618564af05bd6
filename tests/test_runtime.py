import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noisy_student.errors import Refusal
from noisy_student.runtime import RuntimeParams, autocast, generator, reseed_torch, setup

DRAWS = st.tuples(st.integers(0, 2**64), st.text(max_size=20), st.integers(0, 2**40))
CPU = torch.device("cpu")


@given(draw=DRAWS)
def test_a_draw_is_a_function_of_seed_purpose_and_step(draw):
    first = generator(*draw).random(4)
    generator(draw[0], "another purpose", 0).random(100)
    assert np.array_equal(first, generator(*draw).random(4))


@given(one=DRAWS, other=DRAWS)
def test_draws_that_differ_in_one_of_the_three_are_independent(one, other):
    for i in range(3):
        changed = (*one[:i], other[i], *one[i + 1 :])
        assert (changed == one) == np.array_equal(generator(*one).random(4), generator(*changed).random(4))


def test_the_generator_gives_the_same_numbers_on_every_machine():
    assert generator(0, "order of pool", 1).integers(1000, size=3).tolist() == [121, 840, 452]


def test_torch_reseeded_gives_the_same_dropout_whatever_came_before():
    def dropped(step: int) -> torch.Tensor:
        reseed_torch(3, "model noise", step)
        return torch.nn.functional.dropout(torch.ones(1000))

    first = dropped(5)
    torch.rand(17)
    assert torch.equal(first, dropped(5))
    assert not torch.equal(first, dropped(6))


@pytest.mark.usefixtures("torch_settings")
def test_setup_sets_threads_and_determinism(runtime):
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(2)
    assert setup(runtime) == CPU
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("torch_settings")
def test_a_gpu_is_taken_where_there_is_one_and_refused_where_there_is_none(runtime, monkeypatch):
    def device(asked_for: str, shown: bool) -> str:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: shown)
        return setup(RuntimeParams(**{**runtime.model_dump(), "device": asked_for})).type

    assert [device("auto", True), device("cuda", True), device("cpu", True)] == ["cuda", "cuda", "cpu"]
    assert [device("auto", False), device("cpu", False)] == ["cpu", "cpu"]
    with pytest.raises(Refusal, match=r"runtime\.device is cuda"):
        device("cuda", False)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_forward_pass_runs_at_the_precision_asked_for(runtime, precision, dtype):
    params = RuntimeParams(**{**runtime.model_dump(), "precision": precision})
    layer = torch.nn.Linear(2, 2)
    with autocast(params, CPU):
        assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer.weight.dtype == torch.float32
