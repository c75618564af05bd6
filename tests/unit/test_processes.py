"""Processes that benchmarks measure."""

import resource
import sys

import pytest

from benchmarks.processes import run
from noisy_student.core.errors import UserError


def test_memory_is_that_of_the_process_and_not_of_the_one_that_starts_it(tmp_path):
    small = run(tmp_path, sys.executable, "-S", "-c", "print(1)").peak_mb
    large = run(tmp_path, sys.executable, "-S", "-c", "print(len(bytearray(10**8)))").peak_mb
    assert small < resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 / 2
    assert 95 < large - small < 110


@pytest.mark.parametrize("end", ["sys.exit('no luck')", "print('no luck'); os.kill(os.getpid(), 9)"])
def test_a_process_that_fails_ends_in_what_it_said_last(tmp_path, end):
    with pytest.raises(UserError, match="no luck"):
        run(tmp_path, sys.executable, "-u", "-c", f"import os, sys; {end}")


def test_output_comes_back_without_the_figure_of_memory(tmp_path):
    assert run(tmp_path, sys.executable, "-c", "print('{\"a\": 1}')").figures() == {"a": 1}
