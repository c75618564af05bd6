"""The page that labels images: what it writes, and whom it refuses."""

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from commands.label import Corrections, LabelServer
from commands.label_next import ToLabel
from noisy_student.core.errors import UserError

CLASSES = ["cat", "dog, or wolf", "<eel>"]


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[LabelServer]:
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"id": ["a", "b,b", "c"], "guess": "cat", "confidence": 0.5, "margin": 0.1})
    shown = ToLabel(table, np.zeros((3, 8, 8, 1), np.uint8), CLASSES)
    made = LabelServer(Corrections(tmp_path / "corrections.csv"))
    made.show(shown)
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
    server.corrections.path.write_text("id,label,why\na,,blurred\nx,cat,dark\n")
    give(server, "a", "cat")
    server.corrections.path.write_text(server.corrections.path.read_text() + "y,cat,new\n")
    give(server, "c", "cat")
    lines = ["id,label,why", "a,cat,blurred", "x,cat,dark", "y,cat,new", "c,cat,"]
    assert server.corrections.path.read_text().splitlines() == lines
    give(server, "a", None)
    give(server, "c", None)
    lines = ["id,label,why", "a,,blurred", "x,cat,dark", "y,cat,new"]
    assert server.corrections.path.read_text().splitlines() == lines


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"image,class\n",
        b"id,label\na,dog,blurred\n",
        b"id,label,label\n",
        b"id,label\n\xff,cat\n",
        b'id,label\n"a,cat',
    ],
    ids=["empty", "columns", "fields", "twice", "Latin-1", "quote"],
)
def test_a_file_that_cannot_be_kept_is_left_as_it_is(server, content):
    server.corrections.path.write_bytes(content)
    assert give(server, "a", "cat")[0] == 500
    assert server.corrections.path.read_bytes() == content


def test_empty_fields_at_the_end_of_a_line_and_a_byte_order_mark_are_read(server):
    server.corrections.path.write_bytes("\ufeffid,label\r\nx,cat,\r\n".encode())
    give(server, "a", "cat")
    assert labels(server) == {"x": "cat", "a": "cat"}


def test_two_servers_lose_no_label(server):
    other = Corrections(server.corrections.path)
    names = [f"{number}" for number in range(40)]
    with ThreadPoolExecutor(4) as both:
        turns = [(server.corrections, name) for name in names[::2]] + [(other, name) for name in names[1::2]]
        list(both.map(lambda turn: turn[0].set(turn[1], "cat"), turns))
    assert labels(server).keys() == set(names)


def test_a_link_stays_a_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shared.csv").write_text("id,label\n")
    (tmp_path / "corrections.csv").symlink_to("shared.csv")
    Corrections(tmp_path / "corrections.csv").set("a", "cat")
    assert (tmp_path / "corrections.csv").is_symlink()
    assert (tmp_path / "shared.csv").read_text() == "id,label\na,cat\n"


def test_the_page_opens_for_who_knows_the_token(server):
    status, page = ask(server, "GET", f"/?token={server.token}")
    assert status == 200
    assert "What is this?" in page
    assert "<eel>" not in page  # a class is data, not a tag
    give(server, "a", "cat")
    assert '"labels": {"a": "cat"}' in ask(server, "GET", f"/?token={server.token}")[1]
    for path in ("/", "/?token=wrong", f"/other?token={server.token}"):
        assert ask(server, "GET", path)[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Token": "wrong"},
        {"Origin": "http://example.com"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Host": "example.com"},
        {"Host": "example.com:80"},
    ],
    ids=str,
)
def test_another_origin_host_or_token_is_let_in_nowhere(server, headers):
    own = {"X-Token": server.token} if headers.keys() - {"X-Token"} else {}
    assert ask(server, "POST", "/label", {"id": "a", "label": "cat"}, **{**own, **headers})[0] == 403
    if "X-Token" not in headers and headers:
        assert ask(server, "GET", f"/?token={server.token}", **headers)[0] == 403
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
        "[" * 9_000,
    ],
    ids=range(11),
)
def test_anything_else_is_refused_and_nothing_is_written(server, body):
    status, said = ask(server, "POST", "/label", body, **{"X-Token": server.token})
    assert (status, said) == (400, "a label is JSON with the id of an image and a class or null")
    assert labels(server) == {}


def test_a_port_that_is_taken_is_named(server):
    with pytest.raises(UserError, match=f"port {server.server_port} cannot be used"):
        LabelServer(server.corrections, server.server_port)


def test_labels_that_are_added_leave_all_other_lines_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "corrections.csv"
    file.write_text("id,label,who\na,cat,Ann\n,,\n,,note\nb,cat,Ann\n")
    Corrections(file).add({"b": "<eel>", "c": "cat"})
    assert file.read_text() == "id,label,who\na,cat,Ann\n,,\n,,note\nb,<eel>,Ann\nc,cat,\n"
