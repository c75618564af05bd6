"""dvc.yaml without dvc: its stages, expanded by params.yaml, with their commands in the order of the DAG."""

import re
from collections.abc import Iterable
from typing import Any

from noisy_student.core.imports import reachable


def commands(pipeline: dict[str, Any], params: dict[str, Any], last: str = "summarize") -> list[tuple[str, list[str]]]:
    """The stages that the `last` one needs, and their command lines, each behind the stages whose outputs it reads.

    `pipeline` is the parsed dvc.yaml. Of its templating `foreach` over a dict or a list and `${...}` are understood, no
    more.
    """
    stages = expanded(pipeline, params)
    makers = {out: name for name, stage in stages.items() for out in written(stage)}
    before = {name: _makers_of(stage["deps"], makers) for name, stage in stages.items()}
    needed, order = reachable([last], before.__getitem__), list[str]()

    def visit(name: str) -> None:
        """Add a stage behind those that it needs, in the order of the file, as DVC does."""
        if name not in order:
            for each in [each for each in stages if each in before[name]]:
                visit(each)
            order.append(name)

    for name in stages:
        if name in needed:
            visit(name)
    return [(name, _lines(stages[name]["cmd"])) for name in order]


def expanded(pipeline: dict[str, Any], params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each stage by its name, its placeholders filled in."""
    return dict(_stages(pipeline["stages"], params))


def written(stage: dict[str, Any]) -> list[str]:
    """What an expanded `stage` writes."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _stages(stages: dict[str, Any], params: dict[str, Any]):
    for name, stage in stages.items():
        if "foreach" not in stage:
            yield name, _filled(stage, params)
            continue
        for key, item in _items(stage["foreach"], params):
            yield f"{name}@{key}", _filled(stage["do"], {**params, "key": key, "item": item})


def _items(foreach: str | list[str], params: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """The keys and the items that a stage is made for: those of a section of `params`, or the words of a list."""
    if isinstance(foreach, list):
        return zip(foreach, foreach, strict=True)
    return params[foreach.removeprefix("${").removesuffix("}")].items()


def _filled(value: Any, context: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return re.sub(r"\$\{([^}]+)\}", lambda match: str(_lookup(context, match[1])), value)
    if isinstance(value, list):
        return [_filled(each, context) for each in value]
    if isinstance(value, dict):
        return {_filled(key, context): _filled(each, context) for key, each in value.items()}
    return value


def _lookup(context: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        context = context[key]
    return context


def _makers_of(deps: list[str], makers: dict[str, str]) -> set[str]:
    """The stages that make a dep, something in it, or the folder that it is in."""
    return {
        maker
        for dep in deps
        for out, maker in makers.items()
        if f"{out}/".startswith(f"{dep}/") or f"{dep}/".startswith(f"{out}/")
    }


def _lines(command: str | list[str]) -> list[str]:
    return [command] if isinstance(command, str) else command
