"""The page that labels images: what it writes, and whom it refuses."""

import http.client
import json
import threading
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from commands.label import Corrections, LabelServer
from commands.label_next import ToLabel
from noisy_student.core.errors import UserError

CLASSES = ["cat", "dog, or wolf", "<eel>"]


@pytest.fixture
def server(tmp_path) -> Iterator[LabelServer]:
    table = pd.DataFrame({"id": ["a", "b,b", "c"], "guess": "cat", "confidence": 0.5, "margin": 0.1})
    shown = ToLabel(table, np.zeros((3, 8, 8, 1), np.uint8), CLASSES)
    made = LabelServer(shown, Corrections(tmp_path / "corrections.csv"))
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def ask(server: LabelServer, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    content = body if isinstance(body, str) else None if body is None else json.dumps(body)
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def give(server: LabelServer, name: str, label: object) -> tuple[int, str]:
    return ask(server, "POST", "/label", {"id": name, "label": label}, **{"X-Token": server.token})


def labels(server: LabelServer) -> dict[str, str]:
    return server.corrections.labels()


def test_a_label_is_in_the_file_at_once_can_be_changed_and_taken_back(server):
    assert give(server, "a", "cat") == (200, '{"labeled": 1}')
    assert give(server, "b,b", "dog, or wolf") == (200, '{"labeled": 2}')
    assert labels(server) == {"a": "cat", "b,b": "dog, or wolf"}
    give(server, "a", "<eel>")
    assert labels(server)["a"] == "<eel>"
    assert give(server, "a", None) == (200, '{"labeled": 1}')
    assert labels(server) == {"b,b": "dog, or wolf"}


def test_what_a_person_wrote_into_the_file_stays(server):
    server.corrections.path.write_text("id,label,why\nx,cat,blurred\n")
    give(server, "a", "cat")
    server.corrections.path.write_text(server.corrections.path.read_text() + "y,cat,new\n")
    give(server, "c", "cat")
    assert server.corrections.path.read_text().splitlines() == [
        "id,label,why",
        "x,cat,blurred",
        "a,cat,",
        "y,cat,new",
        "c,cat,",
    ]


def test_the_page_opens_for_who_knows_the_token(server):
    status, page = ask(server, "GET", f"/?token={server.token}")
    assert status == 200
    assert "What is this?" in page
    assert "<eel>" not in page  # a class is data, not a tag
    for path in ("/", "/?token=wrong", f"/other?token={server.token}"):
        assert ask(server, "GET", path)[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Token": "wrong"},
        {"Origin": "http://example.com"},
        {"Origin": "null"},
        {"Host": "example.com"},
        {"Host": "example.com:80"},
    ],
    ids=str,
)
def test_another_origin_host_or_token_is_let_in_nowhere(server, headers):
    own = {"X-Token": server.token} if headers.keys() - {"X-Token"} else {}
    assert ask(server, "POST", "/label", {"id": "a", "label": "cat"}, **{**own, **headers})[0] == 403
    assert labels(server) == {}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no json",
        "[]",
        "null",
        '{"id": "a"}',
        '{"id": "z", "label": "cat"}',
        '{"id": "a", "label": "fox"}',
        '{"id": ["a"], "label": "cat"}',
        '{"id": "a", "label": {}}',
        "9" * 20_000,
    ],
    ids=range(10),
)
def test_anything_else_is_refused_and_nothing_is_written(server, body):
    status, said = ask(server, "POST", "/label", body, **{"X-Token": server.token})
    assert (status, said) == (400, "a label is JSON with the id of an image and a class or null")
    assert labels(server) == {}


def test_a_file_with_other_columns_is_refused(tmp_path):
    (tmp_path / "corrections.csv").write_text("image,class\n")
    with pytest.raises(UserError, match="must have the columns id and label"):
        Corrections(tmp_path / "corrections.csv")
