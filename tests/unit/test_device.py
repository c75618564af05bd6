import pytest
import torch

from noisy_student.core.errors import UserError
from noisy_student.models.device import RuntimeParams, reseed_torch, setup, translate_torch_errors

CPU = torch.device("cpu")


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
    def device(wanted: str, has_gpu: bool) -> str:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
        return setup(RuntimeParams(**{**runtime.model_dump(), "device": wanted})).type

    assert [device("auto", True), device("cuda", True), device("cpu", True)] == ["cuda", "cuda", "cpu"]
    assert [device("auto", False), device("cpu", False)] == ["cpu", "cpu"]
    with pytest.raises(UserError, match=r"runtime\.device is cuda"):
        device("cuda", False)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "too little memory; take less"),
        (
            RuntimeError("grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set ..."),
            "grid_sampler_2d_backward_cuda has no deterministic form on a GPU; take another model or set",
        ),
    ],
)
def test_what_a_gpu_cannot_do_is_said_in_a_sentence(raised, said):
    with pytest.raises(UserError, match=said), translate_torch_errors("take less"):
        raise raised


def test_other_errors_of_torch_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="size of tensor"), translate_torch_errors("take less"):
        torch.ones(2) + torch.ones(3)
