"""Makes the next item while the present one is used."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The `items` in their order, the next of which is made in a thread of its own."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as executor:
        coming = executor.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = executor.submit(next, iterator, end)
            yield item  # type: ignore[misc]
