"""Make the page about the current iteration: did the pool help, where does it hurt, and which model to deploy?

Reads   the current iteration's history and results, the summary, the results of the controls, the audits, the data
        report, what was measured on corrupted images, the parameters that are shipped
Writes  page.html, one file that needs no network
Params  all of params.yaml
"""

from pathlib import Path
from typing import Any

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import read_json, write_bytes
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.audit import read_audit
from noisy_student.evaluation.history import RESULTS, read_controls, read_history, read_mistakes, read_result
from noisy_student.page.contents import Run
from noisy_student.page.render import page


@command
def main(
    *,
    history: Path,
    results: Path,
    controls: Path,
    audits: Path,
    robustness: Path,
    summary: Path,
    report: Path,
    defaults: Path,
    out: Path,
) -> None:
    params = ParamsFile()
    for name in params.values:  # all are shown
        params.section(name, Any)
    current = params.section("current", str)
    measured = params.section("robustness", dict)
    names = [*params.section("controls", dict), *params.section("pool_controls", dict)]
    inputs = {"history": history, "results": results, "controls": controls, "audits": audits, "summary": summary}
    inputs["robustness"] = robustness
    with guarded(__file__, params, {**inputs, "report": report, "defaults": defaults}):
        found = read_history(history)
        run = Run(
            history=found,
            summary=read_json(summary),
            controls=read_controls(controls, names, current),
            result=read_result(results / current),
            evaluated=[read_json(results / name / RESULTS) for name in found.rows["iteration"]],
            mistakes=read_mistakes(results / current),
            audits=[read_audit(audits / name) for name in found.rows["iteration"][1:]],
            robustness={name: read_json(robustness / f"{name}.json") for name in measured},
            card=read_json(report),
            params=params.values,
            defaults=ParamsFile(defaults).values,
        )
        write_bytes(out, page(run).encode())
        print(f"the page: {out}", flush=True)


if __name__ == "__main__":
    main()
