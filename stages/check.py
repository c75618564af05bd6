"""Refuse a params.yaml that cannot be run, with one sentence, before anything else runs.

Reads   dvc.yaml (which DVC takes for no dep), for where the outputs of a removed iteration would be
Writes  a constant, so that nothing runs again because the check did
Params  all of params.yaml
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.check import check, check_orphans
from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import cli_main
from noisy_student.core.files import write_json
from noisy_student.core.workspace import guarded


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="none: check only")
    args = parser.parse_args(argv)

    params = ParamsFile()
    check_orphans(check(params))
    if args.out:
        with guarded(__file__, params, {}):
            write_json(args.out, {"params": "accepted"})


if __name__ == "__main__":
    main()
