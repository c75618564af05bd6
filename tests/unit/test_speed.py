"""The table of ratios: how it is computed, and when it fails."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_shards import SOME
from test_user_files import HOW

from benchmarks import bare_decode, fast_paths, growth, pictures, speed, wall_time
from commands import list_shards
from noisy_student.core.errors import UserError
from noisy_student.core.imports import imported_names
from noisy_student.data.user_images import load_user_images

COST = {"multiply_adds_per_image": 3_000_000, "bytes_per_image": 1000.4}


def measured(*speeds: float):
    left = list(speeds)
    return lambda: speed.Measured(left.pop(0), 100.0, json.dumps(COST))


def training(work, limits) -> speed.Line:
    return speed.Line("training", "cnn_16", "float32", work, limits)


@pytest.fixture
def three_rounds(monkeypatch):
    monkeypatch.setattr(speed, "ROUNDS", 3)


@pytest.mark.usefixtures("three_rounds")
def test_a_ratio_is_the_median_over_rounds_of_own_speed_over_the_limits():
    row = speed.compared(training(measured(90, 1, 97), {"": measured(100, 100, 100)}))
    assert (row["ratio"], row["images_per_second"], row["peak_mb"]) == (0.9, 90, 100)
    assert (row["ratio_low"], row["ratio_high"]) == (0.01, 0.97)
    row = speed.compared(speed.Line("noop", None, None, measured(0.5, 0.5, 0.5), {"": measured(1, 1, 1)}))
    assert (row["ratio"], row["images_per_second"], row["seconds"]) == (0.5, None, 2.0)


@pytest.mark.usefixtures("three_rounds")
def test_the_limit_is_measured_at_its_own_best_settings():
    of = {"lucky once": measured(50, 400, 60), "fast": measured(100, 120, 100)}
    row = speed.compared(training(measured(90, 90, 90), of))
    assert (row["limit_settings"], row["limit_images_per_second"], row["ratio"]) == ("fast", 100, 0.9)


@pytest.mark.usefixtures("three_rounds")
def test_a_net_is_held_against_what_the_bare_machine_allows(capsys):
    row = speed.compared(training(measured(10_000, 10_000, 10_000), {"": measured(1, 1, 1)}))
    assert row["gflops"] == 60  # 3 million multiply-adds, two operations each, ten thousand times a second
    matmul, copy = (
        {"work": kind, "model": None, "precision": precision, "hardware": ""}
        for kind, precision in (("matmul", "float32"), ("copy", None))
    )
    for products, copies, floor in ((120, 12, 20_000), (120, 0.012, 12_000)):
        rows = speed.with_floors([row, matmul | {"gflops": products}, copy | {"gb_per_second": copies}])
        assert [each.get("floor_images_per_second") for each in rows] == [floor, None, None]
    speed.show(rows)
    assert "12,000" in capsys.readouterr().out
    speed.check_not_slower(rows, rows)


def test_a_ratio_that_fell_by_more_than_a_tenth_is_refused():
    def row(ratio: float, precision: str = "float32") -> dict:
        return {"work": "training", "model": "cnn_16", "precision": precision, "ratio": ratio}

    before = [row(0.8)]
    speed.check_not_slower([row(0.73)], before)
    speed.check_not_slower([row(0.01, "bfloat16")], before)  # not measured before
    with pytest.raises(UserError, match=r"training cnn_16 float32 fell from 0\.8 of its limit to 0\.71"):
        speed.check_not_slower([row(0.71)], before)


def test_a_process_that_fails_says_its_last_words(tmp_path):
    assert speed.run(tmp_path, sys.executable, "-c", "print('done')").output == "done\n"
    with pytest.raises(UserError, match="no such luck"):
        speed.run(tmp_path, sys.executable, "-c", "raise SystemExit('no such luck')")
    with pytest.raises(UserError, match="failed: status 3"):
        speed.run(tmp_path, sys.executable, "-c", "raise SystemExit(3)")


def test_the_empty_pipeline_has_the_same_stages_and_nothing_to_do(tmp_path):
    folder = speed.empty_pipeline(tmp_path / "empty")
    stages = len(speed.expanded(*speed.pipeline()))
    status = speed.run(folder, sys.executable, "-m", "dvc", "status", "--json").output
    assert json.loads(status.splitlines()[-1]) == {}
    assert len(list(folder.glob("models/[!.]*"))) == 5
    assert stages == 24
    assert speed.nothing_to_do(folder).speed > 0
    next(folder.glob("models/[!.]*")).unlink()
    with pytest.raises(UserError, match="had something to do"):
        speed.nothing_to_do(folder)


def test_pictures_are_distinct_and_the_same_whatever_their_number(tmp_path, capsys):
    pictures.write(tmp_path / "few", 12)
    pictures.write(tmp_path / "more", 25)
    few, more = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.jpg")}
        for name in ("few", "more")
    )
    assert len(set(more.values())) == 25
    assert few.items() <= more.items()
    assert {path.parts[0] for path in more} == {"labeled", "pool"}
    bare_decode.main(str(tmp_path / "more"))
    assert json.loads(capsys.readouterr().out)["images"] == 25


def test_growth_is_over_what_a_stage_takes_to_start():
    seconds = {"prepare_seconds": [1.0, 2.0, 11.5], "labeling_seconds": [2.0, 2.5, 7.0]}
    seconds |= {"training_seconds": [4.0, 4.5, 5.0], "training_peak_mb": [300.0, 310.0, 330.0]}
    peaks = {"prepare_peak_mb": [100.0, 150.0, 160.0], "labeling_peak_mb": [300.0, 310.0, 320.0]}
    rows = pd.DataFrame({"images": [1000, 10_000, 100_000], **seconds, **peaks, "files": 3, "hardware": "a processor"})
    table = growth.table(pd.concat([rows.assign(kind=kind) for kind in growth.KINDS]))
    assert table.count("| 100000 | 10.5 | 10.5 | 160 | 5.0 | 10.0 | 320 | 5.0 | 330 | 3 |") == 2
    assert table.count("| images in a folder |") == table.count("| images in shards |") == 1


def test_photos_in_shards_are_those_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures.write(tmp_path / "folder", 25)
    pictures.write_shards(tmp_path / "shards", 25)
    list_shards.main(["shards/*.tar"])
    places = {"folder": tmp_path / "folder", "shards": tmp_path / "shards.csv"}
    loaded = [load_user_images(kind, place, HOW, SOME) for kind, place in places.items()]
    of_folder, of_shards = (
        {Path(name).stem: image.tobytes() for name, image in zip(each.all_ids(), each.all_images()[:], strict=True)}
        for each in loaded
    )
    assert of_folder == of_shards
    assert sorted(loaded[0].labels) == sorted(loaded[1].labels)


@pytest.mark.usefixtures("torch_settings")
@pytest.mark.parametrize("kind", ["training", "combined", "labeling", "noise"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_work_and_limit_give_images_a_second(kind, precision, capsys, monkeypatch):
    from benchmarks import limits, work

    monkeypatch.setattr(limits, "SECONDS", 0.01)
    for module in (limits, work):
        module.main(kind, "cnn_2", "28", "1", f"precision={precision}")
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["images_per_second"] > 1


@pytest.mark.usefixtures("torch_settings")
def test_a_machine_has_a_rate_of_products_and_one_of_copies(capsys, monkeypatch):
    from benchmarks import limits

    monkeypatch.setattr(limits, "SECONDS", 0.01)
    for kind, figure in speed.MACHINE.items():
        limits.main(kind, "threads=1")
        assert json.loads(capsys.readouterr().out)[figure] > 0


def test_the_limits_know_nothing_of_the_project_but_its_models():
    names = imported_names((speed.ROOT / "benchmarks" / "limits.py").read_text(), "benchmarks")
    assert {name for name in names if name.startswith(("noisy_student", "benchmarks"))} == {
        "noisy_student.models.registry"
    }


def test_a_loader_without_end_goes_through_all_images_before_one_comes_again():
    from benchmarks.public_noise import Endless

    drawn = iter(Endless(5))
    epochs = [[next(drawn) for _ in range(5)] for _ in range(3)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)


def test_side_by_side_compares_within_a_round():
    from benchmarks.side_by_side import times

    rounds = [{"ours": 2.0, "torchvision": 1.0}, {"ours": 30.0, "torchvision": 10.0}, {"ours": 8.0, "torchvision": 2.0}]
    assert times(rounds, "ours", "torchvision") == "3.00"
    assert times(rounds, "ours in bfloat16", "torchvision") == ""


def test_a_fast_path_is_held_against_the_same_round_without_it():
    rounds = [{"as it is": 100.0, "fused=false": 90.0}, {"as it is": 10.0, "fused=false": 8.0}]
    assert fast_paths.table("cnn_2", rounds)[1] == "| cnn_2 | fused=false | 49 | 0.85 | 0.80 | 0.90 |"


def test_each_fast_path_of_the_default_run_is_switched():
    found = fast_paths.in_runtime()
    assert found == ["precision=float32", "precision=bfloat16", "fused=false", "channels_last=false", "compile=true"]


def test_the_profile_says_what_its_tables_say():
    from benchmarks import profile

    step = pd.DataFrame({"share": {profile.BATCH: 0.1, "loss": 0.6, "all else": 0.3, "the step": 1.0}})
    said = profile.about_step(step, {"batch_size": 8, "objective": "combined"})
    assert "a batch of 8 images" in said
    assert "Most of it, 60%, is: loss; choosing and noising the batch is 10%." in said
    stages = pd.DataFrame(
        {
            "seconds": {"check": 1.0, "train_teacher": 8.0, "page": 1.0},
            "start": {"check": 0.5, "train_teacher": 1.0, "page": 0.5},
        }
    )
    said = profile.about_run(stages)
    assert "10 s, of which 20% are starts" in said
    assert "70% the 1 trainings without their starts, and 10% all else" in said
    assert said.endswith("the page, with their starts, take 10%.")


def test_the_whole_runs_of_commits_are_compared_over_rounds():
    with pytest.raises(UserError, match="no-such-commit"):
        wall_time.Run.parsed("no-such-commit", None)
    runs = [wall_time.Run("abc", None), wall_time.Run("abc", Path("some/short.yaml"))]
    rounds = [[(140.0, 0.97), (70.0, 0.98)], [(100.0, 0.97), (80.0, 0.98)], [(120.0, 0.97), (60.0, 0.98)]]
    lines = wall_time.table(runs, rounds, "a processor").splitlines()
    assert lines[-2:] == [
        "| abc | its own | 120.0 | 100.0 | 140.0 | 97.0 |",
        "| abc | short.yaml | 70.0 | 60.0 | 80.0 | 98.0 |",
    ]
