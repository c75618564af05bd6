"""The only place that imports torchvision and timm: `from noisy_student.core.torchvision_compat import torchvision`,
and `timm()`.

torchvision's Linux wheel is built against CUDA's torch. Beside a CPU-only torch its compiled operators cannot load, and
`import torchvision` fails while describing one of them, although models and transforms need none. After exactly that
failure the two missing operators are declared (not implemented) and the import is tried again. Importing takes more
than a second, so import this module only where it is used.
"""

import importlib
import sys
from types import ModuleType

import torch

NO_OPERATORS = "operator torchvision::nms does not exist"
_declared: list[torch.library.Library] = []  # a Library takes its operators along when it is collected


def _import_torchvision() -> ModuleType:
    try:
        torchvision = importlib.import_module("torchvision")
    except RuntimeError as error:
        if str(error) != NO_OPERATORS:
            raise
        _forget_partial_import()
        _declare_operators()
        torchvision = importlib.import_module("torchvision")
    importlib.import_module("torchvision.transforms.v2")  # torchvision does not import it by itself
    return torchvision


def _forget_partial_import() -> None:
    """Remove the modules that torchvision had imported before it failed; Python itself removes torchvision alone."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)


torchvision = _import_torchvision()


def timm() -> ModuleType:
    """The module timm, imported when first asked for (it imports torchvision, which by now works)."""
    return importlib.import_module("timm")
