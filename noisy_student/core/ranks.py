"""Ranks: processes that do the work of one stage together, on one or more machines that share the project's folder.

    NOISY_STUDENT_TORCHRUN="--nproc-per-node 4"    options of torchrun; not set: a stage is one process

It is an environment variable, because it belongs to the machine: in a command of dvc.yaml it would make DVC run
everything again. A stage that finds it starts itself under torchrun (https://docs.pytorch.org/docs/stable/elastic/run.html),
which restarts ranks and finds those of other machines. The first rank alone speaks, and writes what all have made.
"""

import contextlib
import io
import logging
import os
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any

from noisy_student.core.errors import UserError
from noisy_student.core.signals import Stopped

TORCHRUN = "NOISY_STUDENT_TORCHRUN"
LONGEST_WAIT = timedelta(days=1)  # of ranks for one of them, which may wait for another run's lock
LOST_RANK = "another rank is gone; run again to go on"


def rank() -> int:
    """Which of the ranks this process is, from 0 on."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def world_size() -> int:
    """How many ranks there are."""
    return int(os.environ.get("WORLD_SIZE", 1)) if _is_rank() else 1


def local_rank() -> int:
    """Which of this machine's ranks this process is, and so which GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", 0)) if _is_rank() else 0


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return rank() == 0


def mine(count: int) -> range:
    """Which of `count` pieces of work are this rank's. They are the same in each run with as many ranks."""
    return range(rank(), count, world_size())


def _is_rank() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def ranked(main: Callable[..., None]) -> Callable[..., None]:
    """Let the stage `main` start itself under torchrun where the environment asks for it, as one rank of a group."""

    @wraps(main)
    def run(*args: Any, **kwargs: Any) -> None:
        if world_size() > 1:
            with _group():
                main(*args, **kwargs)
        elif not _is_rank() and (options := os.environ.get(TORCHRUN, "").strip()):
            _start(options)
        else:
            main(*args, **kwargs)

    return run


def _start(options: str) -> None:
    """Run this process's command under torchrun. Raises `UserError` with what the first rank that failed said."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    logging.disable()  # torchrun prints a page for what is one sentence here
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # until a stage sets runtime.threads; else torchrun warns of it
    with tempfile.TemporaryDirectory(prefix="ranks-") as logs:
        refused = UserError(f"the environment variable {TORCHRUN} was {options!r}; see `torchrun --help` for options")
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                wanted = parse_args(["--log-dir", logs, *shlex.split(options), *sys.orig_argv[1:]])
        except (SystemExit, ValueError):
            raise refused from None
        try:
            run(wanted)
        except (ValueError, AssertionError):  # of values that the options do not take
            raise refused from None
        except RendezvousError:
            raise UserError("another machine of this run is gone, or did not come; run again on all of them") from None
        except SignalException as stopped:  # the first rank has said what is kept
            sys.exit(128 + stopped.sigval)
        except ChildFailedError as failed:
            raise _first_error(failed.failures) from None


def _first_error(failures: dict[int, Any]) -> BaseException:
    """What the ranks' `failures`, torch's ProcessFailure by rank, come to: the first cause, as one sentence."""

    def weight(number: int) -> tuple[bool, bool, int]:
        failure = failures[number]
        follows = failure.message == LOST_RANK or failure.exitcode in (-signal.SIGTERM, 128 + signal.SIGTERM)
        return follows, failure.exitcode > 0, failure.timestamp

    number = min(failures, key=weight)
    failure = failures[number]
    if failure.exitcode < 0:
        killed = signal.Signals(-failure.exitcode).name
        return UserError(f"{_name(number)} was killed by {killed}; run again to go on")
    if failure.exitcode == 1 and failure.error_file_data["message"] == failure.message:
        return UserError(f"{failure.message} ({_name(number)})")
    return SystemExit(failure.exitcode)  # what it printed stands above: what a stop keeps, or a traceback


def _name(number: int) -> str:
    return f"rank {number} on {socket.gethostname()}"


@contextmanager
def _group() -> Iterator[None]:
    """Within the block, the ranks can exchange tensors, each has a GPU if there are any, and only the first prints.

    Raises `UserError` for more ranks than GPUs, and where another rank is gone.
    """
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if gpus := torch.cuda.device_count():
        if local_rank() >= gpus:
            raise UserError(f"there are {gpus} GPUs; lower --nproc-per-node in {TORCHRUN}")
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 open until the process ends
    try:
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
        yield
        wait_for_all()  # a rank that leaves early takes away what others still need
    except Stopped as stopped:
        if is_first():
            raise
        sys.exit(128 + stopped.signal)
    except RuntimeError as error:  # of torch's communication, some are plain ones
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise UserError(LOST_RANK) from None
        raise
    finally:
        if dist.is_initialized() and sys.exc_info()[0] is None:
            dist.destroy_process_group()


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` returns in the first rank, in all of them. The others wait for it."""
    if world_size() == 1:
        return make()
    import torch
    import torch.distributed as dist

    box = [make() if is_first() else None]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def after_first(make: Callable[[], Any]) -> Any:
    """What `make` returns in each rank. The others call it after the first one is done with it."""
    made = make() if is_first() else None
    wait_for_all()
    return made if is_first() else make()


def wait_for_all() -> None:
    """Return once all ranks have come here."""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """Whether the `flag` is set in any rank; all of them have to ask."""
    if world_size() == 1:
        return flag
    import torch
    import torch.distributed as dist

    count = torch.tensor(int(flag))
    dist.all_reduce(count)
    return bool(count)


class Counter:
    """A number that all ranks add to, without waiting for one another."""

    def __init__(self, name: str):
        self.name, self.own = name, 0
        self.store = None
        if world_size() > 1:
            from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            start = os.environ["TORCHELASTIC_RESTART_COUNT"]  # torchrun's store outlives its ranks
            self.store = PrefixStore(f"counters {start}", TCPStore(address, port, is_master=False))

    def add(self, number: int) -> int:
        """Add `number`; the sum of what all ranks have added."""
        self.own += number
        return self.store.add(self.name, number) if self.store else self.own
