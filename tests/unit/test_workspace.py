import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from commands import clean_work
from noisy_student.core.errors import UserError
from noisy_student.core.files import write_array
from noisy_student.core.nodes import announced
from noisy_student.core.provenance import ROOT
from noisy_student.core.workspace import guarded, work

STAGE = str(ROOT / "stages/predict_pool.py")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "pool").write_bytes(b"pixels")
    return tmp_path


def job(out="out"):
    return work(Path(out), STAGE, None, {"pool": Path("pool")}, {})


def make(value=1.0, out="out") -> bool:
    """Do the work, if it is not finished; whether it was done."""
    with job(out) as made:
        if not made.finished:
            made.add("a.npy", np.full(3, value))
            write_array(made.part / "below/b.npy", np.zeros(2))
            return True
    return False


def die() -> None:
    raise RuntimeError


def fail(error: type[Exception], happening):
    """The work on which something happens after its first file."""
    made = None

    def begin() -> None:
        nonlocal made
        with job() as made:
            made.add("a.npy", np.ones(3))
            happening()

    with pytest.raises(error):
        begin()
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_result_becomes_the_output_and_replaces_one_of_the_same_stage(here):
    (here / "out").mkdir()
    (here / "out/a.npy").touch()
    assert make()
    assert contents(here / "out").keys() == {"a.npy", "below/b.npy"}
    assert np.load(here / "out/a.npy").tolist() == [1, 1, 1]


def test_a_folder_with_something_else_in_it_is_not_replaced(here):
    (here / "out").mkdir()
    (here / "out/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"out holds thesis.tex, which this stage did not make; name another folder"):
        make()
    assert (here / "out/thesis.tex").read_text() == "years of work"
    for other in (".", "pool"):
        with pytest.raises(UserError, match="name another folder"):
            make(out=other)
    assert not make(out="elsewhere")  # nothing was lost by it


def test_a_finished_result_is_taken_over_aloud(here, capsys):
    make()
    before = contents(here / "out")
    shutil.rmtree(here / "out")
    assert not make(2.0)
    assert contents(here / "out") == before
    assert "taking over the finished result" in capsys.readouterr().out


def test_another_input_is_other_work(here):
    make()
    (here / "pool").write_bytes(b"other")
    assert make(2.0)
    assert np.load(here / "out/a.npy").tolist() == [2, 2, 2]


@pytest.mark.parametrize("file", ["result/a.npy", "hashes.json"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_damaged_result_is_made_again_aloud(here, capsys, file, content):
    make()
    (damaged,) = (here / "work").glob(f"*/{file}")
    damaged.unlink() if content is None else damaged.write_bytes(content)
    assert make(2.0)
    assert "is damaged; making it again" in capsys.readouterr().out
    assert np.load(here / "out/a.npy").tolist() == [2, 2, 2]


def test_what_was_made_before_a_failure_is_still_there_and_half_a_file_is_not(here):
    made = fail(RuntimeError, die)
    made.add("damaged.npy", np.ones(3))
    assert not (here / "out").exists()
    (made.part / "damaged.npy").write_bytes(b"")
    (made.part / "b.npy.tmp").write_bytes(b"half")
    (made.part / "unknown.npy").write_bytes(b"?")
    with job() as again:
        assert not again.finished
        assert again.has("a.npy")
        assert not again.has("damaged.npy")
        assert not again.has("unknown.npy")
        again.add("damaged.npy", np.ones(3))
    assert "b.npy.tmp" not in contents(here / "out")


def test_a_change_of_what_it_is_made_from_leaves_no_result(here):
    made = fail(UserError, lambda: (here / "pool").write_bytes(b"other"))
    assert not (here / "out").exists()
    assert not made.result.exists()
    with pytest.raises(UserError, match="pool changed"), guarded(STAGE, None, {"pool": Path("pool")}):
        (here / "pool").write_bytes(b"third")


@pytest.mark.parametrize("change", [lambda file: file.write_bytes(b"other"), Path.unlink, lambda file: file.touch()])
@pytest.mark.parametrize("watched", ["images", "images/below/a.png"])
def test_what_is_only_watched_may_not_change_either(here, watched, change):
    file = here / "images/below/a.png"
    file.parent.mkdir(parents=True)
    file.touch()
    time.sleep(0.02)  # the clock of a filesystem has coarser steps
    with guarded(STAGE, None, {}, Path(watched)):
        pass
    with pytest.raises(UserError, match=r"images\S* changed while"), guarded(STAGE, None, {}, Path(watched)):
        change(file)


def test_under_dvc_the_work_is_in_the_folder_of_the_project(here, monkeypatch):
    (here / "main").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(here / "main"))
    make()
    assert (here / "main/work").exists()
    assert not (here / "work").exists()


def slow(folder: str, line) -> None:
    """In a process of its own: begins the work, says so, and finishes it when it is told to."""
    os.chdir(folder)
    with job() as made:
        line.send("begun")
        line.recv()
        made.add("a.npy", np.full(3, 7.0))


@pytest.fixture
def other(here):
    """Another process in the middle of the same work."""
    line, far_end = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=slow, args=(str(here), far_end))
    process.start()
    assert line.recv() == "begun"
    yield process, line
    process.kill()
    process.join()


def test_a_second_run_says_who_works_waits_and_takes_over_the_result(here, other, capsys):
    process, line = other
    multiprocessing.get_context("fork").Process(target=lambda: (time.sleep(0.5), line.send("go"))).start()
    assert not make()
    said = capsys.readouterr().out
    assert f"process {process.pid} on " in said
    assert "does the same work; waiting" in said
    assert np.load(here / "out/a.npy").tolist() == [7, 7, 7]


def test_a_killed_process_holds_nothing(here, other):
    process, _ = other
    process.kill()
    process.join()
    assert make()


def test_cleaning_says_what_it_frees_and_leaves_what_is_worked_on(here, other, capsys):
    (here / "pool").write_bytes(b"other")
    make()
    (here / "work/quarantine.csv").touch()
    (finished,) = (here / "work").glob("*/result")
    clean_work.main()
    said = capsys.readouterr().out
    assert f"process {other[0].pid} on " in said
    assert "0.0 MB freed in work" in said
    assert not finished.exists()
    assert not (here / "work/quarantine.csv").exists()
    assert len(list((here / "work").glob("*/part"))) == 1
    assert (here / "out/a.npy").exists()


def test_cleaning_leaves_what_other_machines_follow(here):
    with announced(["stages/prepare.py"]):
        clean_work.main()
        assert (here / "work/nodes.json").exists()


def test_there_may_be_nothing_to_clean(here, capsys):
    clean_work.main()
    assert capsys.readouterr().out == "0.0 MB freed in work\n"
