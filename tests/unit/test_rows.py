"""Tables of measurements that grow a row at a time."""

from benchmarks.rows import add_row, has_row


def test_a_row_that_is_there_is_known_by_its_key(tmp_path):
    path = tmp_path / "rates.csv"
    assert not has_row(path, model="a")
    add_row(path, {"model": "b", "rate": 2.0})
    rows = add_row(path, {"model": "a", "rate": None}, by=["model"])
    assert rows["model"].tolist() == ["a", "b"]
    assert has_row(path, model="b", rate=2.0)
    assert not has_row(path, model="b", rate=3.0)
