"""Stop with one sentence if params.yaml cannot be run, before anything else runs.

Reads   dvc.yaml, which is not one of its deps, to find outputs of removed iterations
Writes  a constant, so that a rerun of the check does not rerun other stages
Params  all of params.yaml
"""

from pathlib import Path

from noisy_student.check import check, check_orphans
from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import write_json
from noisy_student.core.workspace import guarded


@command
def main(*, out: Path | None = None) -> None:
    params = ParamsFile()
    check_orphans(check(params))
    if out:
        with guarded(__file__, params, {}):
            write_json(out, {"params": "accepted"})


if __name__ == "__main__":
    main()
