"""What stands behind the page of sums."""

import json

import pandas as pd
import pytest

from benchmarks import many_shards, scale


def test_a_labeling_of_many_shards_begins_with_those_that_are_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(many_shards, "SHARDS", 11)
    many_shards.main("lay_out", str(tmp_path))
    many_shards.main("begin", str(tmp_path))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["shards"], found["images"], found["left"]) == (11, 110_000, 5)


@pytest.fixture
def coefficients() -> dict[str, float]:
    return pd.read_csv(scale.SCALE.with_suffix(".csv")).set_index("coefficient")["value"].to_dict()


def test_the_share_of_the_peak_is_that_of_the_papers_run(coefficients):
    """350 epochs of 1.28 million labels with 14 pool images each, in six days of 2,048 TPU v3 cores."""
    operations = 350 * 1.28e6 * 15 * 2 * 172.1e9 * 3
    assert scale.share_of_peak(coefficients) == pytest.approx(operations / (6 * 86400 * 2048 * 61.5e12))


def test_eight_times_the_gpus_take_an_eighth_of_the_time(coefficients):
    hours = [
        float(scale.sums(coefficients, gpus)["labeling the pool once"].removesuffix(" h").replace(",", ""))
        for gpus in (8, 64)
    ]
    assert hours[0] == pytest.approx(8 * hours[1], rel=0.02)
