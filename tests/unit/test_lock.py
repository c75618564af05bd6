"""requirements.lock is what pyproject.toml asks for, with all that this needs in turn, and nothing else."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = dict(
    (canonicalize_name(name), version)
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
)


def needed() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    locked = [*extras["pipeline"], *extras["slurm"], *extras["s3"], *extras["export"], *extras["serve"], *extras["dev"]]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *locked]]


def closure(requirements: list[Requirement]) -> set[str]:
    """The names of `requirements` and of all that they require, by what the installed packages say of themselves."""
    found: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), wanted)
            if key in found:
                continue
            found.add(key)
            try:
                requires = distribution(requirement.name).requires or []
            except PackageNotFoundError:
                continue
            waiting += [(Requirement(line), wanted) for line in requires]
    return {name for name, _ in found}


def test_the_lock_holds_every_package_that_is_needed_and_no_other():
    needed_names = closure(needed())
    unpinned = {"pip", "setuptools"}  # tools of the environment, which pip-compile does not pin
    cuda = {name for name in needed_names - set(LOCKED) if name.startswith(("nvidia", "cuda", "triton"))}
    assert needed_names - cuda - unpinned == set(LOCKED) - unpinned  # torch pins its CUDA packages itself


def test_the_locked_versions_satisfy_the_project():
    for requirement in needed():
        assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)]), requirement


def test_the_locked_versions_are_the_installed_ones():
    for name, version in LOCKED.items():
        assert distribution(name).version.split("+")[0] == version, name
