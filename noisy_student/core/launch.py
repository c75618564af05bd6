"""Starts a stage as several ranks, on one or more machines that share the project's folder.

    NOISY_STUDENT_TORCHRUN="--nproc-per-node 4"    options of torchrun; not set: a stage is one process

It is an environment variable, because it belongs to the machine: in a command of dvc.yaml it would make DVC run
everything again. A stage that finds it starts itself under torchrun (docs.pytorch.org/docs/stable/elastic/run.html).
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

from noisy_student.core import ranks
from noisy_student.core.errors import UserError, one_line
from noisy_student.core.nodes import announced
from noisy_student.core.signals import Stopped

TORCHRUN = "NOISY_STUDENT_TORCHRUN"
LONGEST_WAIT = timedelta(days=1)  # of ranks for one of them, which may wait for another run's lock
STORE_KEY, CONNECTING = "port of the ranks' store", timedelta(seconds=2)
LOST_RANK = "another rank is gone; if it ran on another machine, that one says why; run again to go on"
NO_NETWORK = "the ranks do not reach one another ({}); see GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in docs/ranks.md"


def ranked(main: Callable[..., None]) -> Callable[..., None]:
    """Let the stage `main` start itself under torchrun where the environment asks for it, as one rank of a group."""

    @wraps(main)
    def run(*args: Any, **kwargs: Any) -> None:
        if ranks.world_size() > 1:
            with _group():
                main(*args, **kwargs)
        elif not ranks.is_rank() and (options := os.environ.get(TORCHRUN, "").strip()):
            _start(options)
        else:
            main(*args, **kwargs)

    return run


def _start(options: str) -> None:
    """Run this process's command under torchrun. Raises `UserError` with what the first rank that failed said."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import run

    logging.disable()  # torchrun prints a page for what is one sentence here
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # until a stage sets runtime.threads; else torchrun warns of it
    with tempfile.TemporaryDirectory(prefix="ranks-") as logs:
        wanted = _parsed(options, _own_command())
        wanted.log_dir = wanted.log_dir or logs
        try:
            with _together(wanted, options):
                run(wanted)
        except SignalException as stopped:  # the first rank has said what is kept
            sys.exit(128 + stopped.sigval)
        except ChildFailedError as failed:
            raise _first_error(failed.failures) from None
        except (RendezvousError, DistError):
            raise UserError(
                "another machine of this run is gone, or did not come; run `noisy-student follow` there, then run again"
            ) from None
        except (ValueError, AssertionError, KeyError) as error:  # of values that the options do not take
            raise _bad_options(options, one_line(error)) from None


def _own_command() -> list[str]:
    """What this process runs, as torchrun takes it."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    return [*(["-m", module] if module else [sys.argv[0]]), *sys.argv[1:]]


def _parsed(options: str, command: list[str]) -> Any:
    """torchrun's arguments for a `command` with a person's `options`. Raises `UserError` for wrong ones."""
    from torch.distributed.run import parse_args

    script = command[1] if command[0] == "-m" else command[0]
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            wanted = parse_args([*shlex.split(options), *command])
    except (SystemExit, ValueError):
        raise _bad_options(options) from None
    if wanted.training_script != script:  # a word that is no option was taken for it
        raise _bad_options(options)
    return wanted


def machines() -> int:
    """How many machines the environment wants for a stage, at most. Raises `UserError` for wrong options."""
    options = os.environ.get(TORCHRUN, "").strip()
    return _machines(_parsed(options, ["stage"]), options)


def _machines(wanted: Any, options: str) -> int:
    from torch.distributed.run import parse_min_max_nnodes

    try:
        return parse_min_max_nnodes(wanted.nnodes)[1]
    except (ValueError, RuntimeError) as error:
        raise _bad_options(options, one_line(error)) from None


@contextmanager
def _together(wanted: Any, options: str) -> Iterator[None]:
    """Within the block, other machines run the same command, where torchrun's arguments want some."""
    if _machines(wanted, options) == 1:
        yield
        return
    module = ["-m"] if wanted.module else []
    with announced([*module, wanted.training_script, *wanted.training_script_args]) as wanted.rdzv_id:
        yield


def _bad_options(options: str, why: str = "") -> UserError:
    why = f" ({why})" if why else ""
    return UserError(f"the environment variable {TORCHRUN} was {options!r}{why}; see `torchrun --help` for options")


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
    if failure.exitcode == 1 and failure.message == LOST_RANK:
        return UserError(LOST_RANK)  # of which nobody who is left knows the name
    if failure.exitcode == 1 and failure.error_file_data["message"] == failure.message:
        return UserError(f"{failure.message} ({_name(number)})")
    return SystemExit(failure.exitcode)  # what it printed stands above: what a stop keeps, or a traceback


def _name(number: int) -> str:
    return f"rank {number} on {socket.gethostname()}"


def _new_store() -> Any:
    """A store of these ranks alone, in the first one. torchrun's own still has the addresses of ranks that were killed
    and started again, and a rank that finds one of those waits for it in vain."""
    from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]

    address, of_torchrun = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])  # of the first rank's machine
    announcements = TCPStore(address, of_torchrun, is_master=False)
    if ranks.is_first():
        store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=LONGEST_WAIT)
        announcements.set(STORE_KEY, str(store.port))
        return store
    while True:
        port = int(announcements.get(STORE_KEY))
        try:
            store = TCPStore(address, port, is_master=False, timeout=CONNECTING)
        except DistNetworkError:  # of a first rank that is gone; the next one announces its own
            continue
        store.set_timeout(LONGEST_WAIT)
        return store


@contextmanager
def _group() -> Iterator[None]:
    """Within the block, the ranks can exchange tensors, and only the first prints.

    Raises `UserError` where another rank is gone.
    """
    import torch
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if not ranks.is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 open until the process ends
    try:
        try:
            members = {"store": _new_store(), "rank": ranks.rank(), "world_size": ranks.world_size()}
            dist.init_process_group(backend, timeout=LONGEST_WAIT, **members)
        except RuntimeError as error:
            raise UserError(NO_NETWORK.format(one_line(error))) from None
        yield
        ranks.wait_for_all()  # a rank that leaves early takes away what others still need
        dist.destroy_process_group()
    except Stopped as stopped:
        if ranks.is_first():
            raise
        sys.exit(128 + stopped.signal)
    except RuntimeError as error:  # of torch's communication, some are plain ones
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise UserError(LOST_RANK) from None
        raise
