"""Ranks: processes that do the work of one stage together, see launch.py; what each is, and how they wait and agree.

Only the first rank prints, and it writes what all have made. With one process nothing here waits for anything.
"""

import os
import time
import uuid
from collections.abc import Callable
from typing import Any

from noisy_student.core.ahead import cores

POLL_SECONDS = 0.2  # between two looks at whether the others are there


def is_rank() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Which of the ranks this process is, from 0 on."""
    return int(os.environ.get("RANK", 0)) if is_rank() else 0


def world_size() -> int:
    """How many ranks there are."""
    return int(os.environ.get("WORLD_SIZE", 1)) if is_rank() else 1


def local_rank() -> int:
    """Which of this machine's ranks this process is, and so which GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", 0)) if is_rank() else 0


def local_world_size() -> int:
    """How many ranks this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if is_rank() else 1


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def share_of(count: int) -> range:
    """Which of `count` pieces of work are this rank's. They are the same in each run with as many ranks."""
    return range(rank(), count, world_size())


def own_purpose(purpose: str) -> str:
    """The `purpose` of random numbers that each rank draws for itself; the first draws those of a single process."""
    return purpose if is_first() else f"{purpose} of rank {rank()}"


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` returns in the first rank, in all of them. The others wait for it."""
    if world_size() == 1:
        return make()
    import torch
    import torch.distributed as dist

    box = [make() if is_first() else None]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def of_all(value: Any) -> list[Any]:
    """The `value` of each rank, in all of them. They wait for one another."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def to_first(value: Any) -> list[Any]:
    """The `value` of each rank in the first one; nothing in the others."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values = [None] * world_size() if is_first() else None
    dist.gather_object(value, values)
    return values or []


def own_cores() -> int:
    """This rank's share of the machine's cores, at least one."""
    return max(1, cores() // local_world_size())


def after_first(make: Callable[[], Any]) -> Any:
    """What `make` returns in each rank. The others call it after the first one is done with it."""
    made = make() if is_first() else None
    wait_for_all()
    return made if is_first() else make()


def any_rank(flag: bool) -> bool:
    """Whether the `flag` is set in any rank; all of them have to ask."""
    if world_size() == 1:
        return flag
    import torch
    import torch.distributed as dist

    count = torch.tensor(int(flag))
    dist.all_reduce(count)
    return bool(count)


def wait_for_all(meanwhile: Callable[[], None] = lambda: None) -> None:
    """Return once all ranks have come here; until then, call `meanwhile` again and again."""
    if world_size() == 1:
        return
    import torch
    import torch.distributed as dist

    waiting = dist.all_reduce(torch.zeros(()), async_op=True)
    while not waiting.is_completed():  # also True once a rank is gone; `wait` then raises
        meanwhile()
        time.sleep(POLL_SECONDS)
    waiting.wait()


class Counter:
    """A number that all ranks add to, without waiting for one another. They have to make it together."""

    def __init__(self) -> None:
        self.count, self.store = 0, None
        if world_size() > 1:
            from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

            name = from_first(lambda: uuid.uuid4().hex)  # torchrun's store outlives the ranks that it starts again
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            self.store = PrefixStore(name, TCPStore(address, port, is_master=False))

    def add(self, number: int) -> int:
        """Add `number`; the sum of what all ranks have added."""
        self.count = self.store.add("count", number) if self.store else self.count + number
        return self.count
