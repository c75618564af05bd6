"""Write params.yaml from the defaults and an overlay: python -m commands.configure [configs/folder.yaml]

An overlay, as those in configs/, has the lines that differ from configs/default.yaml, the defaults. Comments of the
defaults are kept, and those of keys that the defaults lack. Each key that changes is printed, with both values. What
params.yaml was before is kept in params.yaml.bak.
"""

import copy
import io
import json
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from noisy_student.core.command_line import command
from noisy_student.core.config import PARAMS_FILE
from noisy_student.core.errors import UserError, did_you_mean, one_line
from noisy_student.core.files import write_bytes

DEFAULTS = Path(__file__).parent.parent / "configs" / "default.yaml"
FREE = ("noise.", "training.", "pseudo_labels.", "data.", "pretraining.", "runtime.")  # sections with further keys
# sections whose items a person names; an overlay has them all
ITEMS = ("iterations", "controls", "pool_controls", "distilled", "robustness")


@command
def main(overlay: Path | None = None, *, out: Path = PARAMS_FILE) -> None:
    params = composed(overlay)
    before = read(out) if out.exists() else {}
    changes = [f"{key}: {_shown(old)} -> {_shown(new)}" for key, old, new in differences(before, params)]
    kept = _replaced(out, dumped(params))
    print("\n".join([*changes, f"wrote {out}, {len(changes)} keys changed{kept}; `make repro` is next"]))


def composed(overlay: Path | None) -> Any:
    """The defaults with the values of the `overlay`. Raises `UserError` for a key that the defaults do not have."""
    params = read(DEFAULTS)
    if overlay:
        _lay_over(params, read(overlay), "", overlay)
    return params


def values(overlay: Path | None = None) -> dict[str, Any]:
    """What `composed` gives, as plain dicts and lists."""
    return _plain(composed(overlay))


def read(path: Path) -> Any:
    """The values in a YAML file, with its comments. Raises `UserError` when it cannot be read."""
    try:
        found = _yaml().load(path.read_text(encoding="utf-8"))
    except OSError as error:
        there = ", ".join(sorted(str(Path("configs", each.name)) for each in DEFAULTS.parent.glob("*.yaml")))
        raise UserError(f"cannot read {path}: {error.strerror}; there are {there}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} has no keys; write lines such as `seed: 1`")
    return found


def dumped(params: Any) -> bytes:
    """The text of params.yaml, with an empty line after each section."""
    text = io.StringIO()
    _yaml().dump(params, text)
    return re.sub(r"(\n +\S.*\n)(?=\S)", r"\1\n", text.getvalue()).encode()


def differences(before: Any, after: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted keys whose values differ, with the value before and after, None for one that is not there."""
    if not (isinstance(before, dict) and isinstance(after, dict) and before and after):
        return [] if before == after else [(prefix.rstrip("."), before, after)]
    keys = [*before, *(key for key in after if key not in before)]
    return [each for key in keys for each in differences(before.get(key), after.get(key), f"{prefix}{key}.")]


def _replaced(out: Path, content: bytes) -> str:
    """Write `content` to `out` and say where another content that stood there is kept."""
    before, kept = out.read_bytes() if out.exists() else content, ""
    if before != content:
        backup = out.with_name(f"{out.name}.bak")
        write_bytes(backup, before)
        kept = f"; {backup} has what it was before"
    write_bytes(out, content)
    return kept


def _lay_over(params: Any, changes: Any, prefix: str, path: Path) -> None:
    """Put the values of `changes` in the place of those of `params`, section by section."""
    for key, value in changes.items():
        known = key in params or prefix in FREE or prefix.endswith((".noise.", ".training."))
        if not known:
            hint = did_you_mean(str(key), map(str, params))
            raise UserError(f"{path}: the key {prefix}{key} is unknown; {hint}")
        if isinstance(value, dict) and isinstance(params.get(key), dict) and prefix + key not in ITEMS:
            _lay_over(params[key], value, f"{prefix}{key}.", path)
        else:
            new = key not in params
            params.insert(_place(params, key), key, copy.deepcopy(value))
            if new and key in changes.ca.items:
                params.ca.items[key] = changes.ca.items[key]


def _place(params: Any, key: str) -> int:
    """Where `key` stands; a new one stands before the last, which the blank line after the section belongs to."""
    return list(params).index(key) if key in params else max(0, len(params) - 1)


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(type(None), _null)
    return yaml


def _null(dumper: Any, _: None) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:null", "null")


def _shown(value: Any) -> str:
    """A value on one line."""
    text = io.StringIO()
    plain = YAML(typ="safe", pure=True)
    plain.default_flow_style, plain.width = True, 4096
    plain.dump(_plain(value), text)
    return text.getvalue().removesuffix("...\n").strip()


def _plain(value: Any) -> Any:
    """`value` without the comments and the ways of writing numbers that it carries."""
    return json.loads(json.dumps(value))


if __name__ == "__main__":
    main()
