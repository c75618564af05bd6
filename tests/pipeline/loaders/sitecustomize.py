"""Python imports this first where the folder is on PYTHONPATH: in a stage, loaders that can run code then raise.

Looked for are torch.load and its kin, pickle of files and of bytes, arrays of objects, and all but the safe YAML
loaders. What processes send one another is pickled too, and is let through: it comes from no file.
"""

import sys
from typing import Any


def refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a loader that can run code out of a file was called")


def forbid() -> None:
    import _pickle
    import pickle

    import joblib
    import numpy as np
    import pandas as pd
    import torch
    import yaml

    class Unpickler:
        """A class, since torch derives its own from it while it is imported."""

        def __init__(self, *args: Any, **kwargs: Any):
            refuse()

    def load_array(*args: Any, allow_pickle: bool = False, **kwargs: Any) -> Any:
        return refuse() if allow_pickle else load(*args, allow_pickle=False, **kwargs)

    load = np.load
    np.load = load_array
    pickle.Unpickler = _pickle.Unpickler = Unpickler
    for loader in (yaml.Loader, yaml.FullLoader, yaml.UnsafeLoader, yaml.CLoader, yaml.CFullLoader, yaml.CUnsafeLoader):
        loader.__init__ = refuse
    for module, name in (
        (torch, "load"),
        (torch.serialization, "load"),
        (torch.jit, "load"),
        (torch.hub, "load"),
        (pickle, "load"),
        (pickle, "loads"),
        (_pickle, "load"),
        (_pickle, "loads"),
        (joblib, "load"),
        (pd, "read_pickle"),
    ):
        setattr(module, name, refuse)


if any(word.startswith("stages.") for word in sys.orig_argv):
    forbid()
