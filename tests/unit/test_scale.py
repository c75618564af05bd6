"""What stands behind the page of sums."""

import json

from benchmarks import many_shards


def test_a_labeling_of_many_shards_begins_with_those_that_are_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(many_shards, "SHARDS", 11)
    many_shards.main("lay_out", str(tmp_path))
    many_shards.main("begin", str(tmp_path))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["shards"], found["images"], found["left"]) == (11, 110_000, 5)
