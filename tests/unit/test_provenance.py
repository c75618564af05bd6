from pathlib import Path

import pytest

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import UserError
from noisy_student.core.provenance import ROOT, check_unchanged, provenance

HERE = str(ROOT / "stages/predict_pool.py")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with params.yaml and an input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 3\nruntime: {threads: 1}\nteacher: {model: a}\n")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/index.parquet").write_bytes(b"index")
    (tmp_path / "pool/images-00000.npy").write_bytes(b"pixels")
    return tmp_path


def asked() -> ParamsFile:
    params = ParamsFile()
    params.section("seed", int)
    params.section("runtime", dict)
    return params


def made_from(**changed):
    return provenance(
        **{"file": HERE, "params": asked(), "inputs": {"pool": Path("pool")}, "machine": {"torch": "1"}, **changed}
    )


def test_the_code_is_named_file_by_file():
    code = provenance(HERE, None, {}).code
    assert {
        "stages/predict_pool.py",
        "noisy_student/models/prediction.py",
        "noisy_student/core/files.py",
    } <= code.keys()
    assert not [name for name in code if "training" in name]


def test_the_same_things_have_the_same_fingerprint(here):
    assert made_from().fingerprint == made_from().fingerprint
    assert len(made_from().fingerprint) == 16


def test_everything_that_decides_the_result_is_in_the_fingerprint(here):
    before = made_from().fingerprint
    others = {
        made_from(machine={"torch": "2"}).fingerprint,
        made_from(file=str(ROOT / "stages/evaluate.py")).fingerprint,
        made_from(inputs={}).fingerprint,
        made_from(inputs={"labeled": Path("pool")}).fingerprint,
        made_from(params=None).fingerprint,
    }
    (here / "pool/index.parquet").write_bytes(b"other")
    others.add(made_from().fingerprint)
    (here / "pool/more").write_bytes(b"")
    others.add(made_from().fingerprint)
    (here / "params.yaml").write_text("seed: 4\nruntime: {threads: 1}\n")
    others.add(made_from().fingerprint)
    assert len(others | {before}) == 9


def test_a_section_that_was_not_asked_for_is_not_in_it(here):
    before = made_from().fingerprint
    (here / "params.yaml").write_text("seed: 3\nruntime: {threads: 1}\nteacher: {model: b}\n")
    assert made_from().fingerprint == before


def test_an_input_that_is_not_there_is_refused(here):
    with pytest.raises(UserError, match="models/iter0 is not there; run `dvc repro`"):
        made_from(inputs={"teacher": Path("models/iter0")})


def test_nothing_has_changed(here):
    params = asked()
    check_unchanged(provenance(HERE, params, {"pool": Path("pool"), "truth": None}), params)
    check_unchanged(provenance(HERE, None, {}), None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda here: (here / "params.yaml").write_text("seed: 4\nruntime: {threads: 1}\n"), "seed of params.yaml"),
        (lambda here: (here / "params.yaml").write_text("seed: 3\n"), "runtime of params.yaml"),
        (lambda here: (here / "params.yaml").write_text("{"), "seed of params.yaml"),
        (lambda here: (here / "params.yaml").unlink(), "seed of params.yaml"),
        (lambda here: (here / "pool/index.parquet").write_bytes(b"other"), "pool"),
        (lambda here: (here / "pool/index.parquet").unlink(), "pool"),
        (lambda here: (here / "pool").rename(here / "elsewhere"), "pool"),
        (lambda here: (here / "pool/images-00000.npy").write_bytes(b"PIXELS"), "pool"),
    ],
)
def test_what_changed_while_the_stage_ran_is_named(here, change, named):
    params = asked()
    before = provenance(HERE, params, {"pool": Path("pool")})
    change(here)
    with pytest.raises(UserError, match=f"^{named} changed while predict_pool ran"):
        check_unchanged(before, params)


def test_a_change_of_code_is_named(here, monkeypatch):
    before = provenance(HERE, None, {})
    before.code["noisy_student/models/registry.py"] = "what it was"
    with pytest.raises(UserError, match=r"^noisy_student/models/registry.py changed"):
        check_unchanged(before, None)


def test_code_that_is_dated_in_the_future_is_named(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 0.0)
    with pytest.raises(UserError, match=r"^noisy_student/__init__.py is dated in the future"):
        provenance(HERE, None, {})


def test_code_that_was_written_after_the_start_is_refused(monkeypatch):
    monkeypatch.setattr("noisy_student.core.provenance.STARTED", 0.0)
    with pytest.raises(UserError, match=r"^noisy_student/__init__.py changed while predict_pool ran"):
        provenance(HERE, None, {})


def test_a_section_that_is_asked_for_after_the_fingerprint_was_made_is_refused(here):
    params = asked()
    provenance(HERE, params, {})
    assert params.section("seed", int) == 3
    with pytest.raises(RuntimeError, match="the section teacher is read after the fingerprint was made"):
        params.section("teacher", dict)
