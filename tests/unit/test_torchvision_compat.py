"""The door to torchvision, with a stand-in for a torchvision whose operators did not load."""

import subprocess
import sys

import pytest

# What the real package does first: import a part of itself, then describe an operator that is not there.
WITHOUT_OPERATORS = """
import torch
from torchvision import extension
torch.library.register_fake("torchvision::nms", lambda dets, scores, iou_threshold: dets)
torch.library.register_fake("torchvision::qnms", lambda dets, scores, iou_threshold: dets)
"""


def run(code, folder=None):
    """Run `code` in a Python of its own, which finds the packages of `folder` first."""
    path = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else ""
    return subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True, timeout=120)


def stand_in(folder, source):
    package = folder / "torchvision"
    (package / "transforms" / "v2").mkdir(parents=True)
    (package / "transforms" / "v2" / "__init__.py").touch()
    (package / "transforms" / "__init__.py").touch()
    (package / "extension.py").touch()
    (package / "__init__.py").write_text(source)
    return folder


def test_torchvision_is_whole_and_timm_waits_until_it_is_asked_for():
    code = """
import sys
from noisy_student.core import torchvision_compat
from noisy_student.core.torchvision_compat import torchvision
assert "timm" not in sys.modules
assert torchvision is sys.modules["torchvision"] and torchvision.extension is sys.modules["torchvision.extension"]
assert torchvision.transforms.v2.functional.pil_to_tensor
assert torchvision.models.get_model("squeezenet1_1", weights=None)
assert torchvision_compat.timm().is_model("resnet18")
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_missing_operators_are_declared_and_the_import_tried_again(tmp_path):
    folder = stand_in(tmp_path, WITHOUT_OPERATORS)
    plain = run("import torchvision", folder)
    assert "RuntimeError: operator torchvision::nms does not exist" in plain.stderr
    done = run(
        "from noisy_student.core.torchvision_compat import torchvision; import gc, torch; gc.collect()\n"
        "assert torchvision.extension is sys.modules['torchvision.extension']\n"
        "print(torch.ops.torchvision.nms.default._schema)",
        folder,
    )
    assert done.stdout.strip() == "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@pytest.mark.parametrize(
    "error", ["RuntimeError('operator torchvision::roi_align does not exist')", "ImportError('nms does not exist')"]
)
def test_any_other_error_passes_through(tmp_path, error):
    done = run("import noisy_student.core.torchvision_compat", stand_in(tmp_path, f"raise {error}"))
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1] == error.replace("('", ": ").removesuffix("')")
