"""What several rooms' tests share: real 8x8 digits and splits of them, a runtime on one thread, a recipe to vary."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_digits

from noisy_student.core.config import overlay
from noisy_student.models.device import RuntimeParams
from noisy_student.store.splits import Split
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.params import Recipe, TrainingParams

settings.register_profile("same", deadline=None, derandomize=True)  # the same examples in every run, however slow
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The models of the tests are too small for more, and threads that wait for one another make them slow."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """537 handwritten zeros, ones and twos that scikit-learn carries: uint8 (N,8,8,1), int64 (N,)."""
    images, labels = load_digits(n_class=3, return_X_y=True)
    return (images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8), labels.astype(np.int64)


@pytest.fixture(scope="session")
def make_split(digits) -> Callable[..., Split]:
    """The digits from the `first` to before the `last` as a split."""
    images, labels = digits

    def make(first: int, last: int, shards: int = 1) -> Split:
        return Split(
            classes=["zero", "one", "two"],
            image_size=(8, 8),
            channels=1,
            preparation={"image_size": 8, "resize": "crop", "background": 0, "max_megapixels": 50.0},
            read_ids=lambda: np.array([f"digit-{i}" for i in range(first, last)]),
            labels=labels[first:last],
            shards=np.array_split(images[first:last], shards),
        )

    return make


@pytest.fixture(scope="session")
def runtime() -> RuntimeParams:
    return RuntimeParams(
        device="cpu", precision="float32", threads=1, channels_last=True, fused=True, compile=False, deterministic=True
    )


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """Puts back what `runtime.setup` sets for the whole process."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    """A short, plain recipe without noise; `noise` and `training` are what to have otherwise."""
    plain = TrainingParams(
        steps=6,
        batch_size=16,
        pool_ratio=3,
        pool_weight=1,
        accumulation=1,
        optimizer="adamw",
        learning_rate=0.01,
        warmup=0,
        momentum=0.9,
        weight_decay=0.01,
        label_smoothing=0,
        ema_decay=0,
        validations=1,
    )

    def make(model: str = "mlp_16", noise: dict | None = None, **training) -> Recipe:
        return Recipe(
            model=model,
            noise=overlay(NoiseParams.none(), noise or {}, "noise"),
            training=overlay(plain, training, "training"),
        )

    return make
