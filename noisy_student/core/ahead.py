"""Makes the next item while the present one is used."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """A thread that does one thing after another. It keeps no process from ending, whatever it waits for."""

    def __init__(self) -> None:
        self.waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def submit(self, make: Callable[[], T]) -> Future[T]:
        """What `make` will return, or raise."""
        future: Future[T] = Future()
        self.waiting.put((future, make))
        return future

    def close(self) -> None:
        """End the thread after what was submitted; this does not wait for it."""
        self.waiting.put(None)

    def _work(self) -> None:
        while following := self.waiting.get():
            future, make = following
            try:
                future.set_result(make())
            except BaseException as error:  # it belongs to the thread that asks for the result
                future.set_exception(error)


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The `items` in their order, the next of which is made in a thread of its own."""
    iterator, end, worker = iter(items), object(), Worker()
    try:
        coming = worker.submit(lambda: next(iterator, end))
        while (item := coming.result()) is not end:
            coming = worker.submit(lambda: next(iterator, end))
            yield item  # type: ignore[misc]
    finally:
        worker.close()
