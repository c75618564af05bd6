"""A decoding that was interrupted goes on from what it had done."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from preparing import NO_CORRECTIONS, run_prepare
from test_user_files import OWN, folder_of_photos, photo

from noisy_student.core.signals import Stopped
from noisy_student.core.workspace import CHECKPOINT_SECONDS
from noisy_student.data import listing, parallel_decoding
from noisy_student.data.decoding_work import NewPart
from noisy_student.store.decoding import BadImage, read_inside
from stages import prepare
from stages.prepare import write_reports

FILES = 50
AT_ONCE = 4  # files of a task


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CHECKPOINT_SECONDS, "0")
    monkeypatch.setattr(listing, "CHUNK", AT_ONCE)
    monkeypatch.setattr(parallel_decoding, "CHUNK", AT_ONCE)
    folder_of_photos(tmp_path / "images")
    (tmp_path / "images/pool/torn.png").write_bytes(b"no image")
    (tmp_path / "corrections.csv").write_text(NO_CORRECTIONS)
    return tmp_path


def interrupted_after(tasks: int, **changes) -> None:
    """Run the stage, and stop it when it has done so many tasks."""
    with pytest.MonkeyPatch.context() as patch:
        add = NewPart.add

        def stop_in_time(part: NewPart, done) -> None:
            add(part, done)
            if part.records == tasks:
                raise Stopped(15)

        patch.setattr(NewPart, "add", stop_in_time)
        with pytest.raises(SystemExit):
            run_prepare(OWN | changes)


def outputs(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def left_in_work() -> list[str]:
    return [each.name for each in Path("work").glob("decoded-*")]


@pytest.mark.parametrize("tasks", [1, 7, FILES // AT_ONCE])
def test_it_ends_with_the_bytes_of_an_uninterrupted_one(here, capsys, tasks):
    run_prepare(OWN, out="once")
    interrupted_after(tasks)
    interrupted_after(1)
    capsys.readouterr()
    run_prepare(OWN)
    assert f"going on after {min((tasks + 1) * AT_ONCE, FILES + 1)} files" in capsys.readouterr().out
    assert outputs(here / "out") == outputs(here / "once")
    assert not left_in_work()


def test_a_file_that_changed_is_decoded_again(here):
    interrupted_after(FILES // AT_ONCE)
    photo(999).save("images/labeled/cat/000.png")
    Path("images/pool/torn.png").unlink()
    photo(1000).save("images/pool/torn.png")
    run_prepare(OWN)
    shutil.rmtree("work")
    run_prepare(OWN, out="once")
    assert outputs(here / "out") == outputs(here / "once")


@pytest.mark.parametrize("damage", ["pixels", "cut off", "record"])
def test_what_is_damaged_is_decoded_again(here, damage):
    run_prepare(OWN, out="once")
    interrupted_after(FILES // AT_ONCE)
    (pixels,) = here.glob("work/decoded-*/*.pixels")
    if damage == "record":
        for record in here.glob("work/decoded-*/*.npz"):
            record.write_bytes(record.read_bytes()[:-9])
    else:
        content = pixels.read_bytes()
        pixels.write_bytes(content[: len(content) // 2] if damage == "cut off" else b"\1" + content[1:])
    run_prepare(OWN)
    assert outputs(here / "out") == outputs(here / "once")


def test_an_error_after_the_decoding_keeps_what_was_decoded(here, capsys):
    with pytest.raises(SystemExit):
        run_prepare(OWN | {"validation": 1000})
    assert "going on" not in capsys.readouterr().out
    run_prepare(OWN)
    assert f"going on after {FILES + 1} files" in capsys.readouterr().out


def test_files_of_sixteen_bits_are_decoded_again_for_their_white_may_change(here, capsys):
    """Of the labeled files, which come first, half are of 12 bits, and of the pool none."""
    for number, file in enumerate(sorted(here.glob("images/labeled/**/*.png"))[:15]):
        deep = np.asarray(photo(number, color=False)).astype(np.uint16) * 16
        Image.fromarray(deep).save(file)
    run_prepare(OWN, out="once")
    interrupted_after(FILES // AT_ONCE)
    capsys.readouterr()
    run_prepare(OWN)
    (before,) = re.findall(r"going on after (\d+) files", capsys.readouterr().out)
    assert 0 < int(before) <= FILES - 15
    assert outputs(here / "out") == outputs(here / "once")
    assert json.loads((here / "out/report.json").read_text())["white_of_16_bit_files"] == 4095


def test_another_decoder_begins_anew(here, capsys, monkeypatch):
    interrupted_after(3)
    monkeypatch.setattr("noisy_student.data.decoding_work.decoders", lambda: ["another version"])
    run_prepare(OWN)
    assert "going on" not in capsys.readouterr().out


def test_a_file_that_could_not_be_read_is_tried_again(here, monkeypatch):
    run_prepare(OWN, out="once")

    def refuse(root: str, path: str) -> bytes:
        if path.endswith("000.png"):
            raise BadImage("cannot be read: Permission denied")
        return read_inside(root, path)

    with monkeypatch.context() as patch:
        patch.setattr(listing, "read_inside", refuse)
        interrupted_after(FILES // AT_ONCE - 1)
    run_prepare(OWN)
    assert outputs(here / "out") == outputs(here / "once")


def test_a_change_that_the_stage_notices_at_its_end_keeps_what_was_decoded(here, capsys, monkeypatch):
    def write_and_correct(*given) -> None:
        write_reports(*given)
        (here / "corrections.csv").write_text(f"{NO_CORRECTIONS}pool/030.png,cat\n")

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_reports", write_and_correct)
        with pytest.raises(SystemExit):
            run_prepare(OWN)
    assert "corrections.csv changed while prepare ran" in capsys.readouterr().err
    run_prepare(OWN)
    assert f"going on after {FILES + 1} files" in capsys.readouterr().out


def test_what_another_run_decodes_is_left_alone(here, capsys):
    interrupted_after(3)
    (name,) = left_in_work()
    with FileLock(here / "work/locks" / name):
        run_prepare(OWN)
        assert "going on" not in capsys.readouterr().out
        assert left_in_work() == [name]
    run_prepare(OWN)
    assert f"going on after {3 * AT_ONCE} files" in capsys.readouterr().out


def test_what_a_second_run_left_of_the_same_files_is_removed(here):
    interrupted_after(3)
    (name,) = left_in_work()
    shutil.copytree(here / "work" / name, here / "work" / f"{name}-0123abcd")
    interrupted_after(3)
    assert left_in_work() == [name]


def test_what_was_left_of_other_files_is_removed(here):
    interrupted_after(3)
    (name,) = left_in_work()
    photo(1001).save("images/pool/another.png")
    interrupted_after(3)
    (other,) = left_in_work()
    assert other != name


def test_a_wrong_interval_is_refused(here, monkeypatch, capsys):
    monkeypatch.setenv(CHECKPOINT_SECONDS, "soon")
    with pytest.raises(SystemExit):
        run_prepare(OWN)
    assert "must be a number of seconds" in capsys.readouterr().err
