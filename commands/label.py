"""Label pool images in the browser, one key each: python -m commands.label [--images 48] [--model models/iter2]

Opens a page of this machine that shows the pool images whose label would teach most. Each label is in corrections.csv
at once, so nothing is lost when the browser or this command ends; called again, it goes on with the others. The next
run trains on them.
"""

import csv
import hmac
import io
import json
import os
import secrets
import threading
import webbrowser
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from filelock import FileLock

from commands.label_next import ToLabel, check_count, to_label
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import write_bytes
from noisy_student.core.signals import Stopped
from noisy_student.core.workspace import work_folder
from noisy_student.data.corrections import read_lines
from noisy_student.page.contents import address
from noisy_student.page.render import labeling_page
from noisy_student.store.pictures import picture

CORRECTIONS = Path("corrections.csv")
HOST, MAX_PORT = "127.0.0.1", 2**16 - 1
MAX_BYTES = 10_000  # of what the page sends
SIDE = 480  # pixels of a picture, at most


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48, help="how many to show")
    parser.add_argument("--model", type=Path, help="a model's folder; none: the one to deploy, or that of `current`")
    parser.add_argument("--pool", type=Path, default=Path("data/pool"), help="the split to choose images from")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--no-browser", action="store_true", help="print the address alone")
    args = parser.parse_args(argv)
    check_count(args.images)

    if not 0 <= args.port <= MAX_PORT:
        raise UserError(f"--port was {args.port}; it must be from 0 to {MAX_PORT}")

    corrections = Corrections(CORRECTIONS)
    server = LabelServer(corrections, args.port)
    try:
        server.show(to_label(args.model, args.pool, args.images, corrections.labels()))
        print(f"open {server.url} ; Ctrl-C ends it", flush=True)
        if not args.no_browser:  # one that runs in the terminal would keep this from serving
            threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
        server.serve_forever()
    except Stopped:  # Ctrl-C is how it ends
        added = f"{len(server.labeled):,} labels were added to {CORRECTIONS}"
        print(f"\n{added}; `make repro` trains with them" if server.labeled else "\nno label was added", flush=True)
    finally:
        server.server_close()


class Corrections:
    """The labels in a CSV file with the columns id and label, which a person or another server may edit meanwhile."""

    def __init__(self, path: Path):
        self.path = path.resolve()
        self.before: dict[str, str | None] = {}  # what each label that was changed here was before
        self.labels()
        if self.path.exists() and not os.access(self.path, os.W_OK):
            raise UserError(f"{path} may not be written; allow it")

    def labels(self) -> dict[str, str]:
        """The label of each id that has one."""
        return {line["id"]: line["label"] for line in self._read()[1] if line["label"]}

    def set(self, name: str, label: str | None) -> None:
        """Give the image called `name` the `label`, or with None the one it had before.

        The file is on the disk when this returns.
        """
        with self._locked():
            columns, lines = self._read()
            before = next((line["label"] for line in lines if line["id"] == name), None)
            earlier = self.before.setdefault(name, before)
            wanted = label if label is not None else earlier
            if wanted is None:
                lines = [line for line in lines if line["id"] != name]
            else:
                lines = with_labels(columns, lines, {name: wanted})
            self._write(columns, lines)

    def add(self, labels: dict[str, str]) -> None:
        """Give each image, by its id, its label, in place of any that it has. All are on the disk when this returns."""
        with self._locked():
            columns, lines = self._read()
            self._write(columns, with_labels(columns, lines, labels))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = work_folder() / "locks" / "corrections"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        return read_lines(self.path) if self.path.exists() else (["id", "label"], [])

    def _write(self, columns: list[str], lines: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        write_bytes(self.path, text.getvalue().encode())


def with_labels(columns: list[str], lines: list[dict[str, str]], labels: dict[str, str]) -> list[dict[str, str]]:
    """The `lines` of a file with these `columns`, with the `labels` by id in place of those that they have, and new
    lines for ids that have none."""
    changed = [line | {"label": labels.get(line["id"], line["label"])} for line in lines]
    there = {line["id"] for line in lines}
    missing = [name for name in labels if name not in there]
    return [*changed, *({**dict.fromkeys(columns, ""), "id": name, "label": labels[name]} for name in missing)]


class LabelServer(ThreadingHTTPServer):
    """Serves the page to who knows the token, on this machine alone, and writes the labels that it sends."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, corrections: Corrections, port: int = 0):
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}); name another one with --port") from None
        self.token = secrets.token_urlsafe(24)
        self.corrections, self.labeled = corrections, dict[str, str]()
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        if self.server_port == 80:  # which a browser leaves out
            self.hosts |= {HOST, "localhost"}
        self.url = f"http://{HOST}:{self.server_port}/?token={self.token}"

    def show(self, shown: ToLabel) -> None:
        """Serve these images."""
        self.images, self.classes = pictures(shown), shown.classes
        self.ids = set(shown.table["id"])

    def page(self) -> str:
        """The page, with the labels that were given so far."""
        return labeling_page(self.classes, self.images, self.labeled, self.token)

    def label(self, name: str, label: str | None) -> None:
        """Write the label of an image, or take it back."""
        self.corrections.set(name, label)
        if label is None:
            self.labeled.pop(name, None)
        else:
            self.labeled[name] = label

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away: the terminal is for the person."""


def pictures(shown: ToLabel) -> list[dict[str, Any]]:
    """Each image with its id, the model's guess, and its picture."""
    rows = shown.table[["id", "guess", "confidence"]].to_dict("records")
    return [{**row, "picture": address(picture(image, SIDE))} for row, image in zip(rows, shown.images, strict=True)]


class Handler(BaseHTTPRequestHandler):
    """Answers the page's requests. Other origins, other hosts and requests without the token are refused."""

    server: LabelServer
    timeout = 10  # seconds that a request may take to arrive

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path != "/" or not self._may(parse_qs(query).get("token", [""])[0]):
            return self._answer(HTTPStatus.FORBIDDEN, "open the address that the command printed")
        return self._answer(HTTPStatus.OK, self.server.page(), "text/html")

    def do_POST(self) -> None:
        if not self._may(self.headers.get("X-Token", "")) or self.path != "/label":
            return self._answer(HTTPStatus.FORBIDDEN, "open the address that the command printed")
        try:
            name, label = self._given()
        except (ValueError, TypeError, KeyError, RecursionError):
            return self._answer(HTTPStatus.BAD_REQUEST, "a label is JSON with the id of an image and a class or null")
        try:
            self.server.label(name, label)
        except (UserError, OSError) as error:
            return self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        return self._answer(HTTPStatus.OK, json.dumps({"labeled": len(self.server.labeled)}), "application/json")

    def _given(self) -> tuple[str, str | None]:
        """The id and the label that the page sent. Raises ValueError, TypeError or KeyError for anything else."""
        length = int(self.headers.get("Content-Length", ""))
        if not 0 < length <= MAX_BYTES:
            raise ValueError(length)
        given = json.loads(self.rfile.read(length))
        name, label = given["id"], given["label"]
        if name not in self.server.ids or not (label is None or label in self.server.classes):
            raise ValueError(name)
        return name, label

    def _may(self, token: str) -> bool:
        """Whether the request knows the token and comes from the page itself, not from another site."""
        origin = self.headers.get("Origin")
        own = origin is None or origin.removeprefix("http://") in self.server.hosts
        known = hmac.compare_digest(token.encode(), self.server.token.encode())
        return known and own and self.headers.get("Host") in self.server.hosts

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: Any) -> None:
        """Say nothing: the terminal is for the person."""


if __name__ == "__main__":
    main()
