"""The pipeline under a real DVC, in a repository of its own, on a tiny run: what runs, what not, what it leaves."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pandas as pd
import pytest
import store
import yaml

from benchmarks.study import environment
from noisy_student.core.config import changed
from noisy_student.evaluation.results import verdict

ROOT = Path(__file__).parents[2]
TINY = {
    "runtime.threads": 1,
    "guards.collapsed": "warn",  # of so weak a teacher
    "guards.useless": "warn",
    "data.test": 60,
    "data.labeled_per_class": 2,
    "data.calibration": 20,
    "data.validation": 20,
    "data.pool": 200,
    "pseudo_labels.threshold": 0,
    "pseudo_labels.precision": None,  # so weak a teacher has none
    "pseudo_labels.balance": False,
    "teacher.model": "cnn_4",
    "teacher.training": {"steps": 4, "batch_size": 16, "validations": 2},
    "training.steps": 4,
    "training.batch_size": 16,
    "training.validations": 2,
    "iterations": {"iter1": {"teacher": "iter0", "model": "cnn_4"}, "iter2": {"teacher": "iter1", "model": "cnn_6"}},
}


class Project:
    """A clone of the project with tiny parameters."""

    def __init__(self, folder: Path):
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for file in listed.stdout.splitlines():
            if (ROOT / file).is_file() and file != "dvc.lock" and Path(file).parent != Path("metrics"):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, folder / file)
        self.params("params.yaml", TINY)
        for command in ("git init -q", "git config user.name tests", "git config user.email tests@example.com"):
            self.run(*command.split())
        self.commit()

    def params(self, file: str, changes: dict) -> None:
        path = self.folder / file
        path.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), changes), sort_keys=False))

    def run(self, *command: str, status: int = 0) -> str:
        done = subprocess.run(command, cwd=self.folder, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "tiny")

    def repro(self) -> list[str]:
        return stages_run(self.run("dvc", "repro"))

    def experiment(self, name: str, *changes: str) -> list[str]:
        sets = [part for change in changes for part in ("-S", change)]
        return stages_run(self.run("dvc", "exp", "run", "-n", name, *sets))

    def changed_stages(self) -> set[str]:
        return set(json.loads(self.run("dvc", "status", "--json")))


class Clone(Project):
    """A clone by git of a project at its last commit."""

    def __init__(self, project: Project, folder: Path):
        self.folder = folder
        project.run("git", "clone", "-q", str(project.folder), str(folder))


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    made = Project(tmp_path_factory.mktemp("dvc") / "project")
    made.plan = made.run(sys.executable, "-m", "commands.plan")
    made.first_run = made.repro()
    made.commit()
    return made


@pytest.fixture(autouse=True)
def as_committed(project):
    yield
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "-q", "--force")
    for orphan in (
        "data/logits",
        "data/pseudo_labels",
        "models",
        "metrics/results",
        "metrics/history",
        "metrics/audit",
    ):
        shutil.rmtree(project.folder / orphan / "iter3", ignore_errors=True)


def test_every_stage_runs_once_and_leaves_the_summary(project):
    assert len(project.first_run) == len(set(project.first_run)) == 24
    summary = json.loads((project.folder / "metrics/summary.json").read_text())
    assert summary["iteration"] == "iter2"
    assert verdict(summary) in (project.folder / "metrics/page.html").read_text()
    assert {"accuracy", "accuracy_low", "accuracy_high", "gain_over_teacher", "gain_over_control"} <= set(summary)
    history = pd.read_csv(project.folder / "metrics/history.csv")
    assert history["iteration"].tolist() == ["iter0", "iter1", "iter2"]
    assert history["kept_fraction"].tolist()[1:] == [1.0, 1.0]
    assert (history["training_labels"] == 20).all()
    assert (history["held_out_labels"] == 40).all()


def test_the_plan_names_the_models_that_will_be_trained_and_counts_the_other_stages(project):
    for trained in ("train_teacher", "train_student@iter1", "train_student@iter2", "train_control@same_size"):
        assert trained in project.plan
    assert "and 17 quick stages; about" in project.plan  # without the check, which a change of params.yaml reruns
    assert project.run(sys.executable, "-m", "commands.plan") == "nothing is to be run\n"


def test_a_second_run_has_nothing_to_do(project):
    assert project.repro() == []
    assert project.changed_stages() == set()


@pytest.mark.slow
def test_deleted_outputs_and_cache_come_back_as_the_same_bytes(project):
    lock = (project.folder / "dvc.lock").read_bytes()
    shutil.rmtree(project.folder / ".dvc/cache")
    shutil.rmtree(project.folder / "work")
    for folder in ("data", "models", "metrics"):
        for output in (project.folder / folder).glob("[!.]*"):
            if output.name not in ("audit", "controls", "distilled", "robustness"):  # folders that git keeps
                shutil.rmtree(output) if output.is_dir() else output.unlink()
    for output in ("controls/same_size", "audit/iter1", "audit/iter2"):
        shutil.rmtree(project.folder / "metrics" / output)
    equal = {"extract_features@calibration", "extract_features@pool"}  # to @labeled's, where no model is pretrained
    assert set(project.first_run) - set(project.repro()) <= equal
    assert (project.folder / "dvc.lock").read_bytes() == lock


@pytest.mark.slow
def test_a_fresh_clone_gets_every_artifact_from_a_store_and_runs_no_stage(project, tmp_path, monkeypatch):
    with store.server() as address:
        store.use(address, monkeypatch)
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("artifacts")
        project.run("dvc", "remote", "add", "--default", "store", "s3://artifacts/cache")
        project.run("dvc", "remote", "modify", "store", "endpointurl", address)
        said = project.run("dvc", "push", "--run-cache")
        project.commit()
        pulled, repeated = (Clone(project, tmp_path / name) for name in ("pulled", "repeated"))
        said += pulled.run("dvc", "pull")
        assert pulled.changed_stages() == set()
        (repeated.folder / "dvc.lock").unlink()
        said += repeated.run("dvc", "repro", "--pull")
        assert stages_run(said) == ["summarize"], "whose figures are git's, and no artifact"
        for clone in (pulled, repeated):
            weights = [each.folder / "models/iter2/model.safetensors" for each in (project, clone)]
            assert weights[0].read_bytes() == weights[1].read_bytes()
        assert store.SECRET not in said + (project.folder / ".dvc/config").read_text()
    project.run("dvc", "remote", "remove", "store")
    project.commit()


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["missing", "corrupt"])
def test_a_cache_object_that_is_missing_or_corrupt_is_made_again(project, harm):
    lock = (project.folder / "dvc.lock").read_bytes()
    made = hashlib.md5((project.folder / "models/iter0/model.safetensors").read_bytes()).hexdigest()  # noqa: S324 DVC's
    (cached,) = (project.folder / ".dvc/cache").rglob(made[2:])
    cached.unlink()
    if harm == "corrupt":
        cached.write_bytes(b"noise")
    shutil.rmtree(project.folder / "models/iter0")
    shutil.rmtree(project.folder / "work")
    assert "train_teacher" in project.repro()
    assert (project.folder / "dvc.lock").read_bytes() == lock


@pytest.mark.slow
def test_an_experiment_in_a_folder_of_its_own_that_was_killed_goes_on(project):
    command = ["dvc", "exp", "run", "--temp", "-S", "training.steps=1000", "train_student@iter1"]
    often = {**environment(), "NOISY_STUDENT_CHECKPOINT_SECONDS": "0.2"}
    killed = subprocess.Popen(command, cwd=project.folder, env=often, start_new_session=True)
    while not [*(project.folder / "work").glob("train_student-*/checkpoints/*.safetensors")]:
        time.sleep(0.02)
        assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert "goes on after step" in project.run(*command)


@pytest.mark.slow
def test_a_queued_experiment_keeps_its_work_in_the_project_and_gives_the_same_bytes(project):
    """A worker of the queue runs it in a folder of its own, which is gone afterwards."""
    project.run("dvc", "exp", "run", "--queue", "-n", "queued", "-S", "training.steps=5", "train_student@iter1")
    project.run("dvc", "queue", "start")
    for _ in range(600):
        if re.search(r"queued.*(Success|Failed)", project.run("dvc", "queue", "status")):
            break
        time.sleep(0.2)
    project.run("dvc", "queue", "stop")
    assert re.search(r"queued.*Success", project.run("dvc", "queue", "status"))
    project.run("dvc", "exp", "apply", "queued")
    made = (project.folder / "dvc.lock").read_text()
    taken_over = project.run("dvc", "repro", "--force", "--single-item", "train_student@iter1")
    assert "taking over the finished result" in taken_over
    assert (project.folder / "dvc.lock").read_text() == made


def test_each_iteration_is_a_revision_and_nothing_is_trained_for_it(project):
    for current in ("iter1", "iter0"):
        assert set(project.experiment(f"one-{current}", f"current={current}")) <= {"check", "summarize", "page"}
    table = project.run("dvc", "metrics", "diff", "one-iter0", "one-iter1", "--md")
    assert "| metrics/summary.json | nll " in table  # of so small a run the accuracies may be the same
    project.run(sys.executable, "-m", "commands.compare", "one-iter0", "one-iter1", "--out", "work/comparison.html")
    page = (project.folder / "work/comparison.html").read_text()
    assert "<h2>one-iter0: iter0</h2>" in page
    assert "<h2>one-iter1: iter1</h2>" in page
    said = project.run(sys.executable, "-m", "commands.compare", "one-iter7", status=1)
    assert said.startswith("error: there is no revision one-iter7")
    same = project.run(sys.executable, "-m", "commands.compare", "HEAD", "HEAD", status=1)
    assert same.startswith("error: HEAD and HEAD are the same revision")


@pytest.mark.slow
def test_one_command_goes_round_again_as_an_experiment_of_its_own(project):
    """Of so small a run no label shows that the new student is better, so there is one round."""
    said = project.run(sys.executable, "-m", "commands.iterate", "--at-most", "3")
    assert stages_run(said).count("train_student@iter3") == 1
    assert "train_student@iter2" not in stages_run(said)
    assert "so this was the last round" in said
    assert json.loads((project.folder / "metrics/summary.json").read_text())["teacher"] == "iter2"
    assert "iter-3" in project.run("dvc", "exp", "list")


@pytest.mark.slow
def test_another_model_reruns_its_iteration_and_what_follows_and_keeps_the_logits(project):
    ran = set(project.experiment("model", "iterations.iter2.model=cnn_8"))
    assert "train_student@iter2" in ran
    assert not ran & {"prepare", "train_teacher", "predict_pool@iter1", "train_student@iter1", "predict_pool@iter2"}


@pytest.mark.slow
def test_controls_that_see_the_pool_are_trained_and_compared_with(project):
    kinds = ("unnoised", "oracle", "shuffled")
    controls = ", ".join(f"{kind}_pool: {{kind: {kind}, of: iter2}}" for kind in kinds)
    ran = set(project.experiment("pool-controls", f"++pool_controls={{{controls}}}"))
    assert {f"train_pool_control@{kind}_pool" for kind in kinds} <= ran
    assert not {name for name in ran if name.startswith(("train_student", "train_control", "predict_pool"))}
    summary = json.loads((project.folder / "metrics/summary.json").read_text())
    assert {f"gain_over_{kind}_control" for kind in kinds} <= set(summary)


@pytest.mark.slow
def test_a_student_is_distilled_without_another_stage_of_the_loop_and_its_leavings_are_named(project):
    ran = set(project.experiment("small", "++distilled.small={teacher: iter2, model: cnn_2}"))
    stages = {"predict_for_distilled@small", "distill@small", "evaluate_distilled@small"}
    assert ran == {"check", *stages, "summarize", "page"}
    summary = json.loads((project.folder / "metrics/summary.json").read_text())
    assert summary["distilled"]["small"]["model"] == "cnn_2"
    assert "gain_over_teacher" in summary["distilled"]["small"]
    tables = (f"metrics/{name}" for name in ("history.csv", "summary.json", "confusion.csv"))
    assert "small" in project.run(sys.executable, "-m", "commands.table", *tables)
    project.run("git", "checkout", "-q", "params.yaml")
    assert "small is left" in project.run("dvc", "repro", status=255)
    said = project.run(sys.executable, "-m", "commands.plan", status=1)
    left = re.search(r"remove it: rm -r (.+)", said)[1].split()
    assert left == ["data/logits/distilled/small", "metrics/distilled/small", "models/distilled/small"]
    for folder in left:
        shutil.rmtree(project.folder / folder)
    assert set(project.repro()) <= {"check", "summarize", "page"}


@pytest.mark.slow
def test_models_begin_with_weights_that_were_pretrained_on_another_source(project):
    source = ("pretraining.source=fashion_mnist", "pretraining.models=[cnn_4]", "++pretraining.training.steps=4")
    ran = set(project.experiment("pretrained", *source, "++teacher.training.initial=pretrained"))
    assert {"pretrain", "train_teacher", "train_student@iter1"} <= ran
    described = json.loads((project.folder / "models/iter0/model.json").read_text())
    weights = json.loads((project.folder / "models/pretrained/cnn_4/model.json").read_text())
    assert described["normalization"] == weights["normalization"]


@pytest.mark.slow
def test_weights_that_nobody_begins_with_train_nothing_anew(project):
    for steps in (3, 5):
        source = ("source=fashion_mnist", "models=[cnn_4]", f"training.steps={steps}")
        sets = [part for change in source for part in ("-S", f"++pretraining.{change}")]
        said = project.run("dvc", "exp", "run", "-n", f"unused-{steps}", *sets)
    trainers = [name for name in stages_run(said) if name.startswith("train")]
    assert said.count("taking over the finished result") >= len(trainers) > 0


MODELS = ("mlp", "cnn", "wrn_10_1", "torchvision/alexnet", "torchvision/vgg11", "torchvision/resnet18")


@pytest.mark.slow
@pytest.mark.parametrize("model", [*MODELS, "timm/efficientnet_b0"])
def test_every_kind_of_model_runs_the_whole_pipeline_by_parameters_alone(project, model):
    places = ("teacher", "iterations.iter1", "iterations.iter2")
    sets = [f"{place}.model={model}" for place in places]
    if model not in ("cnn", "wrn_10_1", "timm/efficientnet_b0"):  # the others have no place for it
        sets += [f"{section}.stochastic_depth=0" for section in ("noise", "controls.same_size.noise")]
    ran = project.experiment(model.replace("/", "-"), *sets)
    assert {"train_teacher", "train_student@iter2", "train_control@same_size", "summarize"} <= set(ran)
    history = pd.read_csv(project.folder / "metrics/history.csv")
    assert history["model"].tolist() == [model] * 3
    described = json.loads((project.folder / "models/iter2/model.json").read_text())
    assert {"parameters", "multiply_adds", "input_sizes"} <= set(described)


@pytest.mark.slow
def test_an_iteration_can_be_added(project):
    ran = set(project.experiment("third", "++iterations.iter3={teacher: iter2, model: cnn_8}", "current=iter3"))
    assert {"predict_pool@iter3", "train_student@iter3", "summarize"} <= ran
    assert not ran & {"train_teacher", "train_student@iter1", "train_student@iter2"}


def test_another_threshold_costs_no_forward_pass_of_its_teacher(project):
    ran = set(project.experiment("threshold", "++iterations.iter2.pseudo_labels.threshold=0.05"))
    assert {"pseudo_label@iter2", "train_student@iter2"} <= ran
    assert not {name for name in ran if name.startswith(("predict_pool", "train_control"))}


def test_what_a_change_of_code_reruns(project):
    (project.folder / "noisy_student/evaluation/results.py").open("a").write("\n# changed\n")
    assert not {name for name in project.changed_stages() if name.startswith(("train", "predict", "pseudo", "prepare"))}
    (project.folder / "noisy_student/training/loop.py").open("a").write("\n# changed\n")
    assert {"train_teacher", "train_student@iter1", "train_control@same_size"} <= project.changed_stages()


def test_bad_parameters_stop_before_anything_else_runs(project):
    lock = (project.folder / "dvc.lock").read_bytes()
    project.params("params.yaml", {"training.steps": "many"})
    planned = project.run(sys.executable, "-m", "commands.plan", status=1)
    assert planned.startswith("error: params.yaml: training.steps was 'many'")
    assert planned.count("\n") == 1
    output = project.run("dvc", "repro", status=255)
    assert stages_run(output) == ["check"]
    assert "error: params.yaml: training.steps was 'many'" in output
    assert "Traceback" not in output
    assert (project.folder / "dvc.lock").read_bytes() == lock


def test_no_iterations_is_a_supervised_run_once_what_they_left_is_removed(project):
    project.params("params.yaml", {"iterations": {}, "controls": {}, "current": "iter0"})
    said = project.run("dvc", "repro", status=255)
    command = re.search(r"remove it: rm -r (.+)", said)[1]
    for left in command.split():
        shutil.rmtree(project.folder / left)
    before = pd.read_csv(project.folder / "metrics/history.csv")
    assert set(project.repro()) == {"check", "summarize", "page"}
    after = pd.read_csv(project.folder / "metrics/history.csv")
    assert after["iteration"].tolist() == ["iter0"]
    assert after["accuracy"].tolist() == before["accuracy"].tolist()[:1]
