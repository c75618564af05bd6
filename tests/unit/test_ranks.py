from types import SimpleNamespace

import pytest

from noisy_student.core import launch, ranks
from noisy_student.core.errors import UserError


def failure(status: int, said: str = "", when: int = 0) -> SimpleNamespace:
    """What torchrun knows of a rank that failed: its exit status, and the sentence it left or torch's own words."""
    message = said or "Signal 9 received" if status < 0 else said or "To enable traceback see: …"
    return SimpleNamespace(
        exitcode=status, message=message, timestamp=when, error_file_data={"message": said or "<NONE>"}
    )


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ({0: failure(1, "no labels")}, "no labels (rank 0 on "),
        ({0: failure(1, launch.LOST_RANK, 3), 1: failure(1, "no labels", 3)}, "no labels (rank 1 on "),
        ({0: failure(1, launch.LOST_RANK), 1: failure(-9, when=1)}, "rank 1 on "),
        ({0: failure(1, launch.LOST_RANK)}, "another rank is gone; if it ran on another machine, that one says why;"),
        ({0: failure(1, "no labels", 2), 1: failure(-15, when=1)}, "no labels (rank 0 on "),
        ({0: failure(1, "no pool", 5), 1: failure(1, "no labels", 4)}, "no labels (rank 1 on "),
    ],
)
def test_the_first_cause_is_said(failures, expected):
    error = launch._first_error(failures)
    assert isinstance(error, UserError)
    assert str(error).startswith(expected)


@pytest.mark.parametrize("status", [1, 130, 143])
def test_a_traceback_or_a_stop_keeps_its_status_and_is_said_once(status):
    error = launch._first_error({0: failure(status), 1: failure(status)})
    assert isinstance(error, SystemExit)
    assert error.code == status


def test_alone_a_process_waits_for_nobody():
    assert (ranks.rank(), ranks.world_size(), ranks.local_rank()) == (0, 1, 0)
    assert ranks.is_first()
    assert list(ranks.share_of(3)) == [0, 1, 2]
    assert ranks.any_rank(True)
    assert not ranks.any_rank(False)
    assert ranks.from_first(lambda: 5) == ranks.after_first(lambda: 5) == 5
    assert ranks.of_all(5) == [5]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_piece_of_work_has_one_rank(monkeypatch, count):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", str(count))
    found = []
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        found += ranks.share_of(5)
    assert sorted(found) == [0, 1, 2, 3, 4]
