"""A model over HTTP: a real server on loopback, many clients at once, and what it refuses."""

import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained import make_untrained

from commands.serve import MAX_BYTES
from noisy_student.models.classifier import load_classifier
from noisy_student.models.prediction import predict_logits

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_split, runtime) -> Path:
    """A model that was not trained, in models/iter1."""
    made = tmp_path_factory.mktemp("serve")
    make_untrained(made, make_split(0, 20), runtime)
    return made


@pytest.fixture(scope="module")
def url(folder) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "commands.serve", "--port", str(port)]
    server = subprocess.Popen(words, cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            if ask(f"{address}/health")[0] == 200:
                break
        except urllib.error.URLError:
            time.sleep(0.1)
    yield address
    server.terminate()
    server.wait(20)


def ask(address: str, content: bytes | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, content), timeout=60) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def file_of(image: np.ndarray, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, kind)
    return content.getvalue()


def count(url: str, status: int) -> int:
    found = re.search(rf'requests_total{{status="{status}"}} (\S+)', ask(f"{url}/metrics")[1])
    return int(float(found[1])) if found else 0


def test_many_clients_get_the_labels_of_the_model(url, folder, make_split, runtime):
    images, before = make_split(0, 64).images(), count(url, 200)
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda image: ask(f"{url}/predict", file_of(image[..., 0])), images))
    assert {status for status, _ in answers} == {200}
    found = [json.loads(said) for _, said in answers]
    classifier, description = load_classifier(folder / "models/iter1", torch.device("cpu"))
    expected = predict_logits(classifier, images, runtime).argmax(axis=1)
    assert [each["label"] for each in found] == [description["classes"][k] for k in expected]
    assert all(sum(each["probabilities"].values()) == pytest.approx(1, abs=2e-4) for each in found)
    assert count(url, 200) == before + 64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<html>", "no image of a known format"),
        (file_of(np.zeros((40, 40, 3), np.uint8))[:-40], ""),
        (file_of(np.zeros((1100, 1100), np.uint8)), "megapixels"),
        (file_of(np.random.default_rng(0).integers(256, size=(40, 40), dtype=np.uint8), "JPEG")[:-200], ""),
    ],
    ids=["empty", "html", "short PNG", "large", "short JPEG"],
)
def test_what_training_refuses_is_refused_with_the_reason(url, content, said):
    before = count(url, 422)
    status, answer = ask(f"{url}/predict", content)
    assert status == 422
    assert said in json.loads(answer)["error"]
    assert count(url, 422) == before + 1


def test_a_large_upload_is_refused(url):
    status, said = ask(f"{url}/predict", bytes(MAX_BYTES + 1))
    assert status == 413
    assert "send a smaller one" in said


def test_other_paths_and_methods_are_refused(url):
    assert ask(f"{url}/predict")[0] == 405
    assert ask(f"{url}/other")[0] == 404
