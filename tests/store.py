"""An S3-speaking server on loopback, for the tests of what is read from an object store."""

import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import fsspec
import pytest

SECRET = "not-for-anyone-to-see"  # noqa: S105 of a server that takes any
SECONDS = 30  # until it answers


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def server() -> Iterator[str]:
    """The address of a server that runs within the block and holds nothing yet."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(10 * SECONDS):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def bad_line(address: str, cuts: int, after: int, pause: float = 0.0) -> Iterator[tuple[str, list[int]]]:
    """The address of a way to the server at `address`, and a list of how many answers are still to be cut off.

    Each of them is cut off `after` so many bytes, and each piece of any answer comes after a `pause`, seconds.
    """
    left = [cuts]

    class Way(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            host, port = address.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as server:
                threading.Thread(target=pass_on, args=(self.request, server), daemon=True).start()
                passed = 0
                while piece := received(server):
                    time.sleep(pause)
                    passed += len(piece)
                    if left[0] and passed > after:
                        left[0] -= 1
                        self.request.sendall(piece[: len(piece) // 2])
                        self.request.shutdown(socket.SHUT_RDWR)
                        return
                    self.request.sendall(piece)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Way) as ways:
        ways.daemon_threads = True
        threading.Thread(target=ways.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{ways.server_address[1]}", left
        ways.shutdown()


def received(end: socket.socket) -> bytes:
    """What comes next; nothing once the other end is gone."""
    try:
        return end.recv(4096)
    except OSError:
        return b""


def pass_on(source: socket.socket, to: socket.socket) -> None:
    """Pass on what comes, until one of the two is gone."""
    with suppress(OSError):
        while piece := received(source):
            to.sendall(piece)


def use(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process and those that it starts find the server at `address`, as a person's environment would."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # which keeps an address
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # a server that is gone is given up within seconds
