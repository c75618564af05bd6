import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from noisy_student.core.errors import cli_main
from noisy_student.core.signals import Stopped, defer_signals, hold_signals, raise_on_signal

ROOT = Path(__file__).parents[2]
STAGE = """
import os, time
from noisy_student.core.errors import cli_main

@cli_main
def main():
    print(os.getpid(), flush=True)
    time.sleep(60)

main()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_with_a_sentence_and_its_status(number, status, capsys):
    @cli_main
    def main() -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == status
    assert capsys.readouterr().err == "stopped\n"


def test_a_step_is_finished_before_a_signal_is_heeded():
    done = []

    def work() -> None:
        with defer_signals() as asked:
            assert not asked
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(asked.signal)
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("outside of a step a signal is heeded at once")

    with pytest.raises(Stopped), raise_on_signal():
        work()
    assert done == [signal.SIGTERM]


def test_a_held_signal_is_heeded_when_the_block_is_done():
    done = []

    def work() -> None:
        with hold_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("the block")
        done.append("what follows")

    with pytest.raises(Stopped), raise_on_signal():
        work()
    assert done == ["the block"]


def test_the_handlers_that_were_there_are_there_again():
    before = signal.getsignal(signal.SIGTERM)
    with raise_on_signal(), defer_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_a_thread_signals_are_left_alone():
    found = []

    def look() -> None:
        with raise_on_signal(), defer_signals() as asked:
            found.append(bool(asked))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [False]


def runs(process: int) -> bool:
    """Whether there is such a process; one that has ended may wait for its parent to notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_while_a_stage_imports_its_libraries_leaves_no_traceback():
    stage = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "stages.train_teacher"], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    said = ""
    while "noisy_student.core.signals" not in said:  # the import that looks after it
        said = stage.stderr.readline()
    stage.send_signal(signal.SIGINT)
    assert "Traceback" not in stage.communicate()[1]
    assert stage.returncode == -signal.SIGINT


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("shell", [[], ["sh", "-c"], ["bash", "-c"]])
def test_a_stage_whose_dvc_was_killed_ends(tmp_path, shell):
    (tmp_path / "stage.py").write_text(STAGE)
    command = [sys.executable, str(tmp_path / "stage.py")]
    started = [*shell, f"{' '.join(command)}; true"] if shell else command  # a shell that stays
    starter = f"import subprocess; subprocess.run({started!r}, stderr=open({str(tmp_path / 'err')!r}, 'w'))"
    environment = {**os.environ, "DVC_STAGE": "stage", "PYTHONPATH": str(ROOT)}
    dvc = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True, env=environment)
    stage = int(dvc.stdout.readline())
    time.sleep(0.3)
    dvc.kill()
    dvc.wait()
    for _ in range(50):
        if (tmp_path / "err").read_text():
            break
        time.sleep(0.1)
    assert (tmp_path / "err").read_text() == "stopped\n"
    time.sleep(0.2)
    assert not runs(stage)
    dvc.stdout.close()
