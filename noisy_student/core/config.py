"""Loads params.yaml and checks each section against its type.

The type of a section stands beside the code that uses the section, so that a change to it reruns only the stages that
read that section.
"""

import copy
import re
import reprlib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from noisy_student.core.errors import UserError, did_you_mean, one_line

PARAMS_FILE = Path("params.yaml")  # the name that DVC gives it
MAX_BYTES = 1_000_000  # a params.yaml is a page or two; a larger file is a mistake or an attack


class ParamsModel(BaseModel):
    """The base of all section types: it rejects unknown keys and wrong types, and its values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=ParamsModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader with two changes.

    It rejects a key that is written twice, where YAML lets the last one win. And it reads 1e-3 and 5e-05 as numbers:
    they are numbers in YAML 1.2, which DVC writes, and text in YAML 1.1, which PyYAML reads.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+"), list("-+.0123456789")
)


class ParamsFile:
    """The parsed params.yaml. A section is checked when it is read.

    Raises `UserError` when the file is missing, not YAML, or not a mapping.
    """

    def __init__(self, path: Path = PARAMS_FILE):
        self.path = path
        self.values = _read(path)
        self.read: dict[str, Any] = {}  # the sections that were read, as they stand in the file
        self.frozen = False  # whether their fingerprint was made

    def section(self, name: str, kind: Any) -> Any:
        """The value under the dotted `name` (`iterations.iter1`), checked against `kind`, a type or a `ParamsModel`.

        Raises `UserError` naming the key, its value and what is allowed. Raises `RuntimeError` for a first read after
        the fingerprint was made, which would miss the section.
        """
        if self.frozen and name not in self.read:
            raise RuntimeError(f"the section {name} is read after the fingerprint was made; read it before")
        value: Any = self.values
        for i, key in enumerate(name.split(".")):
            if not isinstance(value, dict) or key not in value:
                missing = ".".join(name.split(".")[: i + 1])
                raise UserError(f"{self.path}: the key {missing} is missing; add it")
            value = value[key]
        self.read[name] = value
        return validated(kind, value, name, self.path)


def overlay(section: S, overrides: dict[str, Any], name: str, path: Path = PARAMS_FILE) -> S:
    """`section` with some values replaced by `overrides`, which stand in the file under the dotted `name`."""
    return validated(type(section), {**section.model_dump(), **overrides}, name, path)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested `values` by their dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return leaves


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with the value of each dotted key of `changes` in its place; null under a key takes the key out."""
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        section = values
        for key in path:
            section = section.setdefault(key, {})
        if value is None:
            section.pop(last, None)
        else:
            section[last] = copy.deepcopy(value)  # a later change may reach into it
    return values


def validated(kind: Any, value: Any, name: str, path: Path = PARAMS_FILE) -> Any:
    """`value` as an instance of `kind`. Raises `UserError` naming the first bad key, below the dotted `name`."""
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise UserError(f"{path}: {_sentence(error, kind, name)}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes, so it is no parameter file")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 a SafeLoader
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; run from the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold sections such as `seed: 0`, one a line, and holds none")
    return values


def _sentence(error: ValidationError, kind: Any, name: str) -> str:
    errors = error.errors()
    # A misspelled key gives two errors: one key is unknown and one is missing. The unknown key is the user's mistake.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    parts = [str(part) for part in first["loc"]]
    key = ".".join([name, *parts])
    if first["type"] == "extra_forbidden":
        return f"the key {key} is unknown{_nearest(first['loc'], kind)}"
    if first["type"] == "missing":
        return f"the key {key} is missing; add it"
    was = _shown(first["input"])
    was = was if len(was) < 80 else was[:77] + "..."
    if first["type"] != "value_error":
        return f"{key} was {was}: {first['msg']}"
    rule = first["ctx"]["error"]  # of a validator of ours; it begins with "must"
    about_several_keys = isinstance(first["input"], dict)
    return f"{key} {rule}" if about_several_keys else f"{key} was {was}; it {rule}"


def _shown(value: Any) -> str:
    try:
        return reprlib.repr(value)  # shortened, because a value may contain itself
    except ValueError:  # Python refuses to print an integer of more than some thousand digits
        return "a number of thousands of digits"


def _nearest(loc: tuple[Any, ...], kind: Any) -> str:
    """Which known keys a person may have meant by the unknown one at `loc`."""
    for part in loc[:-1]:
        fields = getattr(kind, "model_fields", {})
        if part in fields:
            kind = fields[part].annotation
        elif get_args(kind):  # a dict of sections
            kind = get_args(kind)[-1]
    known = list(getattr(kind, "model_fields", {}))
    return f"; {did_you_mean(str(loc[-1]), known)}" if known else "; remove it"
