import pytest
import torch

from noisy_student.checkpoint import DESCRIPTION, WEIGHTS, load_model, save_model
from noisy_student.errors import Refusal

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2), "steps": torch.tensor(7)}
SAID = {"model": "mlp_8", "classes": ["0", "1"]}


def test_tensors_and_description_come_back_as_they_were(tmp_path):
    save_model(tmp_path, TENSORS, SAID)
    tensors, description = load_model(tmp_path)
    assert description == SAID
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_the_same_tensors_give_the_same_bytes_whatever_their_order_and_layout(tmp_path):
    shuffled = dict(reversed(TENSORS.items()))
    shuffled["weight"] = TENSORS["weight"].t().contiguous().t()  # the same values, columns first
    save_model(tmp_path / "one", TENSORS, SAID)
    save_model(tmp_path / "two", shuffled, SAID)
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()


def test_weights_that_need_gradients_are_saved(tmp_path):
    save_model(tmp_path, torch.nn.Linear(2, 2).state_dict(keep_vars=True), SAID)
    assert load_model(tmp_path)[0].keys() == {"weight", "bias"}


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
@pytest.mark.parametrize("harm", ["missing", "cut in half", "empty", "noise"])
def test_a_folder_without_a_readable_model_is_refused(tmp_path, name, harm):
    save_model(tmp_path, TENSORS, SAID)
    path = tmp_path / name
    whole = path.read_bytes()
    path.write_bytes({"cut in half": whole[: len(whole) // 2], "noise": b"\xff" * 64}.get(harm, b""))
    if harm == "missing":
        path.unlink()
    with pytest.raises(Refusal) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
