"""Stages as several processes, started by torchrun: the same bytes, whichever of them is killed.

A sample of what `python -m benchmarks.ranks` measures.
"""

import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import psutil
import pytest
from PIL import Image
from running import TEACHER, in_training, refused, trained_by_two_ranks
from safetensors.torch import load_file
from store import free_port

from benchmarks import pictures
from benchmarks.processes import ROOT
from benchmarks.ranks import FEATURES
from benchmarks.small_run import Project, Run
from commands import list_shards
from noisy_student.core.files import read_json
from noisy_student.core.launch import TORCHRUN

STAGES = ["check", "prepare", "pretrain", *FEATURES, "train_teacher"]
ADDRESSES = ("192.0.2.1", "192.0.2.2")  # of no machine (RFC 5737)
LABELING = "predict_pool@iter1"
SHORT = {"steps": 60, "batch_size": 64}
PLAIN = {  # what two ranks and one process compute alike: no batch norm, no dropout, no average of statistics
    "teacher.model": "mlp_16",
    "teacher.noise": {"operations": 2, "magnitude": 10, "crop": 2},
    "teacher.training": {"steps": 20, "batch_size": 64, "accumulation": 2, "ema_decay": 0, "optimizer": "sgd"},
    "training.learning_rate": 0.05,
}
STREAMED = {
    "data.source": "shards",
    "data.streamed_pool": True,
    "data.test": 6,
    "data.labeled_per_class": 8,
    "data.pool": 300,
    "data.calibration": 6,
    "data.validation": 6,
    "data.image_size": 28,
    "pseudo_labels.precision": 0.5,
}
VARIED = {
    "teacher.ensemble_size": 2,
    "teacher.training": {"steps": 60, "batch_size": 26, "accumulation": 2, "resolution": 0.5, "resolution_fix": 0.3},
    "training.batch_size": 46,
    "training.steps": 30,
    "training.objective": "pseudo_labels",
    "noise.mix": "cutmix",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return Project(
        tmp_path_factory.mktemp("ranks") / "project", [*STAGES, LABELING], changes={"teacher.training": SHORT}
    )


@pytest.fixture
def two_ranks(monkeypatch) -> None:
    monkeypatch.setenv(TORCHRUN, "--nproc-per-node 2")


@pytest.fixture(scope="module")
def uninterrupted(project) -> dict[str, str]:
    return trained_by_two_ranks(project)


def test_two_ranks_label_as_one_does(project, two_ranks):
    said = project.anew(LABELING)
    assert said.count("100%") == 3, "one bar for each of three splits, not one for each rank"
    assert project.hashes(LABELING) == project.made[LABELING]


@pytest.mark.parametrize("source", [pytest.param("folder", marks=pytest.mark.slow), "shards"])
def test_two_ranks_prepare_as_one_does(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "A_FOLDER", 100)  # of which each is a shard
    changes = STREAMED | {"data.path": str(tmp_path / "shards.csv"), "data.max_bad_fraction": 0.1}
    if source == "shards":
        pictures.write_shards(tmp_path / "pictures", 400)
        with tarfile.open(tmp_path / "pictures/00001.tar", "a") as shard:
            shard.addfile(tarfile.TarInfo("empty.jpg"))
        list_shards.main(["pictures/*.tar"])
    else:
        pictures.write(tmp_path / "pictures", 400)
        (tmp_path / "pictures/pool/empty.jpg").touch()
        for number in range(2):  # files of 12 bits in 16, whose white no single rank may know
            values = np.random.default_rng(number).integers(2000 * number, 4096, (40, 40)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / f"pictures/pool/deep{number}.png")
        changes |= {"data.source": "folder", "data.path": str(tmp_path / "pictures"), "data.streamed_pool": False}
    project = Project(tmp_path / "project", ["check", "prepare"], changes=changes)
    monkeypatch.setenv(TORCHRUN, "--nproc-per-node 2")
    said = project.anew("prepare")
    assert said.count("decoding: 100%") == 1
    assert project.hashes("prepare") == project.made["prepare"]
    found = read_json(project.folder / "metrics/data.json")
    assert found["files"] == found["usable"] + found["quarantined"]
    assert (found["quarantined"], found.get("white_of_16_bit_files")) == (1, 4095 if source == "folder" else None)
    assert not list((project.folder / "work").glob("decoded-*"))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["folder", "shards"])
def test_a_decoding_that_is_killed_goes_on_with_another_number_of_ranks(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "A_FOLDER", 1000)
    if source == "shards":
        pictures.write_shards(tmp_path / "pictures", 20_000)
        list_shards.main(["pictures/*.tar"])
    else:
        pictures.write(tmp_path / "pictures", 20_000)
    own = {"data.source": source, "data.path": str(tmp_path / {"folder": "pictures", "shards": "shards.csv"}[source])}
    changes = STREAMED | own | {"data.streamed_pool": source == "shards", "data.pool": 15_000}
    project = Project(tmp_path / "project", ["check", "prepare"], changes=changes)
    project.forget("prepare")

    def records() -> int:
        return len(list((project.folder / "work").glob("decoded-*/*.npz")))

    for count in (2, 1, 2):
        monkeypatch.setenv(TORCHRUN, f"--nproc-per-node {count}")
        before, run = records(), project.start(project.lines["prepare"][0])
        assert run.until(lambda before=before: records() > before)
        ranks = run.ranks()
        run.kill()
        assert not psutil.wait_procs(ranks, timeout=10)[1]
        assert before == 0 or "going on after" in run.said()
    monkeypatch.delenv(TORCHRUN)
    assert re.search(r"going on after [\d,]+ files", project.finish("prepare"))
    assert project.hashes("prepare") == project.made["prepare"]
    assert not list((project.folder / "work").glob("decoded-*"))


@pytest.mark.slow
def test_two_ranks_pretrain_on_a_folder_of_ones_own(tmp_path, monkeypatch):
    pictures.write(tmp_path / "pictures", 400)
    source = {"source": "folder", "path": str(tmp_path / "pictures"), "models": ["cnn_2"], "validation": 10}
    source |= {"image_size": 16, "training": {"steps": 4, "batch_size": 8}}
    changes = {f"pretraining.{key}": value for key, value in source.items()}
    project = Project(tmp_path / "project", STAGES[:2], changes=changes)
    monkeypatch.setenv(TORCHRUN, "--nproc-per-node 2")
    assert project.finish("pretrain").count("decoding: 100%") == 1


def test_a_killed_rank_is_named_and_the_run_goes_on_to_the_same_bytes(project, uninterrupted, two_ranks):
    run = in_training(project)
    run.ranks()[1].send_signal(signal.SIGKILL)
    assert refused(run).startswith("error: rank 1 on ")
    assert "goes on after step" in project.finish(TEACHER)
    assert project.hashes(TEACHER) == uninterrupted
    assert read_json(project.folder / "models/iter0/model.json")["ranks"] == 2


def test_another_number_of_ranks_is_another_run(project, two_ranks, monkeypatch):
    run = in_training(project)
    run.ranks()[1].send_signal(signal.SIGKILL)
    run.ended()
    monkeypatch.delenv(TORCHRUN)
    assert "goes on" not in project.finish(TEACHER)
    assert read_json(project.folder / "models/iter0/model.json")["ranks"] == 1


@pytest.mark.slow
def test_torchrun_starts_killed_ranks_again(project, uninterrupted, monkeypatch):
    monkeypatch.setenv(TORCHRUN, "--nproc-per-node 2 --max-restarts 1")
    run = in_training(project)
    run.ranks()[1].send_signal(signal.SIGKILL)
    assert "goes on after step" in run.ended()
    assert run.returncode == 0
    assert project.hashes(TEACHER) == uninterrupted


def test_stopped_ranks_go_on_after_the_same_step(project, uninterrupted, two_ranks):
    run = in_training(project)
    ranks = run.ranks()
    run.send_signal(signal.SIGTERM)
    (step,) = re.findall(r"stopped after step (\d+) of 60; run again to go on", run.ended())
    assert run.returncode == 128 + signal.SIGTERM
    assert not psutil.wait_procs(ranks, timeout=5)[1]
    assert f"goes on after step {step} " in project.finish(TEACHER)
    assert project.hashes(TEACHER) == uninterrupted


def test_ranks_end_when_what_started_them_is_killed(project, two_ranks):
    run = in_training(project)
    ranks = run.ranks()
    run.kill()
    assert not psutil.wait_procs(ranks, timeout=10)[1]


def test_two_ranks_take_the_steps_of_one(tmp_path, two_ranks, monkeypatch):
    exact = {"runtime.precision": "float32"}  # bfloat16 rounds more than what is compared here
    project = Project(tmp_path / "project", STAGES[:-1], changes=PLAIN | exact)
    weights = []
    for _ in range(2):
        project.anew(TEACHER)
        weights.append(load_file(project.folder / "models/iter0/model.safetensors"))
        monkeypatch.delenv(TORCHRUN, raising=False)
    for name, tensor in weights[0].items():
        assert tensor.allclose(weights[1][name], atol=1e-5), name


@pytest.fixture
def following(project, monkeypatch) -> Iterator[Callable[..., Run]]:
    """Starts what takes part in the stages that another machine runs, `within` a command that runs it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the small project has no commands of its own
    started = []

    def start(within: Sequence[str] = ()) -> Run:
        started.append(project.start(["-m", "commands.follow"], within))
        return started[-1]

    yield start
    for run in started:
        run.terminate()
        run.ended()


@pytest.mark.slow
def test_two_nodes_make_the_bytes_of_two_ranks_on_one_whichever_is_killed(
    project, uninterrupted, following, monkeypatch
):
    meeting = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(TORCHRUN, f"--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint {meeting}")
    project.forget(TEACHER)
    follower = following()
    first = project.start(project.lines[TEACHER][0])
    assert first.until(lambda: project.checkpoints(TEACHER))
    for process in psutil.Process(follower.pid).children(recursive=True):
        process.kill()
    assert re.match("error: another (rank|machine of this run) is gone", refused(first))
    assert project.finish(TEACHER).count("goes on after step") == 1
    assert follower.poll() is None
    assert follower.said().count("follows -m stages.train_teacher") == 2
    assert project.hashes(TEACHER) == uninterrupted


@pytest.fixture
def two_networks() -> Iterator[list[list[str]]]:
    """What runs a command on each of two machines, which have networks of their own and a line between them."""
    names = [f"node{number}-{os.getpid()}" for number in range(2)]
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("only root can make networks, with iproute2's ip")
    setup = ["ip link add name one type veth peer name two"]
    for number, (name, line) in enumerate(zip(names, ("one", "two"), strict=True)):
        setup += [f"ip netns add {name}", f"ip link set {line} netns {name}"]
        of_node = [f"link set {line} name node", f"address add {ADDRESSES[number]}/24 dev node"]
        setup += [f"ip -n {name} {each}" for each in [*of_node, "link set node up", "link set lo up"]]
    try:
        for command in setup:
            subprocess.run(command.split(), check=True)
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:  # and the line between them with them
            subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.mark.slow
def test_two_machines_with_networks_of_their_own_make_the_bytes_of_two_ranks_on_one(
    project, uninterrupted, following, two_networks
):
    project.forget(TEACHER)
    options = "--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d "
    options += f"--rdzv-endpoint {ADDRESSES[0]}:{free_port()}"
    within = []
    for number, (network, address) in enumerate(zip(two_networks, ADDRESSES, strict=True)):
        own = f"--local-addr {address} --rdzv-conf is_host={number == 0}"
        within.append([*network, "env", f"{TORCHRUN}={options} {own}", "GLOO_SOCKET_IFNAME=node"])
    following(within[1])
    first = project.start(project.lines[TEACHER][0], within[0])
    said = first.ended()
    assert first.returncode == 0, said
    assert project.hashes(TEACHER) == uninterrupted


@pytest.mark.slow
def test_a_streamed_pool_gets_the_logits_of_one_rank_and_survives_a_kill(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures.write_shards(tmp_path / "pictures", 400)
    list_shards.main(["pictures/*.tar"])
    student = "train_student@iter1"
    project = Project(
        tmp_path / "project",
        [*STAGES, LABELING, "pseudo_label@iter1", student],
        changes={"data.path": str(tmp_path / "shards.csv"), **STREAMED},
    )
    monkeypatch.setenv(TORCHRUN, "--nproc-per-node 2")
    project.anew(LABELING)
    assert project.hashes(LABELING) == project.made[LABELING]
    project.anew(student)
    expected = project.hashes(student)
    project.forget(student)
    run = project.start(project.lines[student][0])
    assert run.until(lambda: project.checkpoints(student))
    run.ranks()[1].send_signal(signal.SIGKILL)
    assert refused(run).startswith("error: rank 1 on ")
    assert "goes on after step" in project.finish(student)
    assert project.hashes(student) == expected


@pytest.mark.slow
def test_members_phases_and_uneven_shares_are_the_same_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv(TORCHRUN, "--nproc-per-node 3")
    project = Project(tmp_path / "project", [*STAGES, LABELING, "pseudo_label@iter1"], changes=VARIED)
    expected = project.made[TEACHER]
    for number in range(3):
        project.forget(TEACHER)
        run = project.start(project.lines[TEACHER][0])
        assert run.until(lambda: project.work(TEACHER, "checkpoints/member-2/*.safetensors"))
        run.ranks()[number].send_signal(signal.SIGKILL)
        assert refused(run).startswith(f"error: rank {number} on ")
        project.finish(TEACHER)
        assert project.hashes(TEACHER) == expected
    assert project.finish("train_student@iter1").count("100%") == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--nproc-per-node many", "NOISY_STUDENT_TORCHRUN was '--nproc-per-node many'"),
        ("4", "NOISY_STUDENT_TORCHRUN was '4'"),
        ("--no-such-option", "NOISY_STUDENT_TORCHRUN was '--no-such-option'"),
        ("--nproc-per-node '2", "NOISY_STUDENT_TORCHRUN was"),
        ("--event-log-handler nonsense", "NOISY_STUDENT_TORCHRUN was"),
        ("--help", "NOISY_STUDENT_TORCHRUN was"),
    ],
)
def test_options_that_torchrun_does_not_know_are_refused(project, monkeypatch, options, expected):
    monkeypatch.setenv(TORCHRUN, options)
    assert expected in refused(project.start(project.lines[TEACHER][0]))


def test_a_network_that_is_not_there_is_named(project, two_ranks, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    assert "error: the ranks do not reach one another (" in refused(project.start(project.lines[TEACHER][0]))


def test_what_is_wrong_is_said_once(project, two_ranks, monkeypatch):
    started = time.monotonic()
    line = [*project.lines[LABELING][0]]
    line[line.index("--teacher") + 1] = "models/nowhere"
    said = refused(project.start(line))
    assert "models/nowhere" in said
    assert re.search(r"\(rank [01] on ", said), "of whichever rank was the first to find it"
    assert time.monotonic() - started < 60
