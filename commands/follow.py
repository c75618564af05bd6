"""Take part in the stages that another machine runs: python -m commands.follow

Both share the project's folder, and NOISY_STUDENT_TORCHRUN names on both the same meeting point, such as
"--nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint first-machine:29400". See docs/ranks.md.
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.launch import TORCHRUN, machines
from noisy_student.core.nodes import follow


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.partition(": python -m ")[0])
    parser.add_argument("--until", type=Path, metavar="FILE", help="end when FILE is there (default: on Ctrl-C)")
    until = parser.parse_args(argv).until
    if machines() == 1:
        raise UserError(
            f"the environment variable {TORCHRUN} has no --nnodes of 2 or more; set it as on the first machine"
        )
    print(f"waiting for stages that another machine runs in {Path.cwd()}; Ctrl-C ends this", flush=True)
    follow(lambda: until is not None and until.exists())


if __name__ == "__main__":
    main()
