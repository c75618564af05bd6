"""The manifest for Kubernetes that the docs show."""

import re
from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError, validate
from kubeflow_trainer_api.models import IoK8sApiCoreV1PodTemplateSpec

from noisy_student.core.launch import TORCHRUN

PAGE = Path(__file__).parents[2] / "docs" / "ranks.md"
REPLICAS = {
    "type": "object",
    "properties": {
        "replicas": {"type": "integer", "minimum": 1},
        "restartPolicy": {"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
        "template": {"type": "object"},  # which Kubernetes' own schema checks
    },
    "additionalProperties": False,
}
# What the custom resource of the training operator (kubeflow.org/v1) takes of the keys that the docs use.
PYTORCH_JOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "kubeflow.org/v1"},
        "kind": {"const": "PyTorchJob"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["pytorchReplicaSpecs"],
            "properties": {
                "pytorchReplicaSpecs": {
                    "type": "object",
                    "properties": {"Master": REPLICAS, "Worker": REPLICAS},
                    "additionalProperties": False,
                },
                "runPolicy": {
                    "type": "object",
                    "properties": {"backoffLimit": {"type": "integer", "minimum": 0}},
                    "additionalProperties": False,
                },
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


def manifest() -> dict:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return yaml.safe_load(block)


def check(job: dict) -> None:
    """Raise for what the operator or Kubernetes does not take."""
    validate(job, PYTORCH_JOB)
    for replicas in job["spec"]["pytorchReplicaSpecs"].values():
        pod = IoK8sApiCoreV1PodTemplateSpec.from_dict(replicas["template"])
        assert pod.to_dict() == replicas["template"], "Kubernetes knows no such key"


def test_the_manifest_passes_the_schemas():
    job = manifest()
    check(job)
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
    assert container["name"] == "pytorch"  # where the operator sets the rendezvous
    assert container["env"] == [{"name": TORCHRUN, "value": "--nproc-per-node 8"}]
    assert {mount["name"] for mount in container["volumeMounts"]} == {"project", "shared-memory"}


def test_the_schemas_refuse_what_is_misspelled():
    for path, key, value in (
        ("spec", "pytorchReplicaSpec", {}),
        ("spec.pytorchReplicaSpecs.Master", "restartpolicy", "Never"),
        ("spec.pytorchReplicaSpecs.Master.template.spec", "container", []),
    ):
        job = manifest()
        part = job
        for name in path.split("."):
            part = part[name]
        part[key] = value
        with pytest.raises((ValidationError, ValueError, AssertionError)):
            check(job)
