import time

import pytest
import torch

from noisy_student.core.errors import UserError
from noisy_student.models.checkpoint import DESCRIPTION, WEIGHTS, Checkpoints, load_model, save_model

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
    with pytest.raises(UserError) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(file.name[:14] for file in checkpoints.folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was_and_the_last_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    for step in (5, 10, 15, 120):
        tensors = {**TENSORS, "bias": torch.full((2,), float(step))}
        checkpoints.save(step, tensors, {"step": step, "curve": [{"loss": 0.1}]})
    tensors, rest = Checkpoints(tmp_path).latest()
    assert rest == {"step": 120, "curve": [{"loss": 0.1}]}
    assert tensors["bias"].tolist() == [120, 120]
    assert torch.equal(tensors["weight"], TENSORS["weight"])
    assert names(checkpoints) == ["step-000000015", "step-000000120"]


@pytest.mark.parametrize("harm", ["flipped bit", "cut in half", "empty", "renamed"])
def test_a_damaged_checkpoint_is_taken_away_aloud_and_the_one_before_is_taken(tmp_path, capsys, harm):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, TENSORS, {"step": step})
    last = max(tmp_path.iterdir())
    whole = bytearray(last.read_bytes())
    if harm == "renamed":
        last.rename(last.with_name(last.name.replace("000000002-", "000000003-0")))
    else:
        whole[len(whole) // 2] ^= 1
        last.write_bytes({"flipped bit": whole, "cut in half": whole[: len(whole) // 2]}.get(harm, b""))
    assert checkpoints.latest()[1] == {"step": 1}
    assert "is damaged and is left out" in capsys.readouterr().out
    assert names(checkpoints) == ["step-000000001"]


def test_no_checkpoint_that_is_whole_is_none(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, TENSORS, {"step": 1})
    next(tmp_path.iterdir()).write_bytes(b"")
    assert checkpoints.latest() is None


def test_a_checkpoint_is_due_after_its_seconds_and_seldom_where_it_is_dear(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISY_STUDENT_CHECKPOINT_SECONDS", "0.01")
    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.due()
    time.sleep(0.02)
    assert checkpoints.due()
    checkpoints.save(1, TENSORS, {})
    checkpoints.cost = 100.0
    time.sleep(0.02)
    assert not checkpoints.due()


@pytest.mark.parametrize("seconds", ["often", "nan", "inf", "-1"])
def test_seconds_that_are_no_number_are_refused(tmp_path, monkeypatch, seconds):
    monkeypatch.setenv("NOISY_STUDENT_CHECKPOINT_SECONDS", seconds)
    with pytest.raises(UserError, match=f"NOISY_STUDENT_CHECKPOINT_SECONDS was '{seconds}'"):
        Checkpoints(tmp_path)
