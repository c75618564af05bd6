"""Compare two revisions of a run on one page: python -m commands.compare BEFORE [AFTER] [--out comparison.html]

A revision is a commit, a branch, a tag, or the name of an experiment; without AFTER, it is what lies in the folder. The
page says which one is better on the same test images, what differs, and shows the images on which they differ.
"""

import io
from argparse import ArgumentParser
from pathlib import Path

import pandas as pd
import yaml
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import RevError, SCMError, resolve_rev

from noisy_student.core.config import PARAMS_FILE
from noisy_student.core.errors import UserError, cli_main, one_line
from noisy_student.core.files import write_bytes
from noisy_student.evaluation.history import MISTAKES, PREDICTIONS
from noisy_student.page.comparison import Revision
from noisy_student.page.render import comparison

HERE = "workspace"  # what DVC calls the files that lie in the folder
SUMMARY, RESULTS = "/metrics/summary.json", "/metrics/results"  # from the root of the project


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", help="a revision")
    parser.add_argument("after", nargs="?", default=HERE, help="another one; none: what lies in the folder")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"), help="a file to write, .html")
    args = parser.parse_args(argv)
    if args.out.suffix != ".html":
        raise UserError(f"{args.out} must end in .html")
    try:
        with Repo() as repo:
            commits = [resolved(repo, name) for name in (args.before, args.after)]
            if commits[0] == commits[1]:
                raise UserError(f"{args.before} and {args.after} are the same revision; name two")
            before, after = (
                read_revision(repo, *each) for each in zip((args.before, args.after), commits, strict=True)
            )
    except (NotDvcRepoError, SCMError) as error:
        raise UserError(f"this is no project of DVC and git ({one_line(error)}); go to its folder") from None
    write_bytes(args.out, comparison(before, after).encode())
    print(f"see {args.out}")


def resolved(repo: Repo, name: str) -> str:
    """The commit that `name` stands for, or `workspace` itself. Raises `UserError` where there is none."""
    try:
        return name if name == HERE else str(resolve_rev(repo.scm, name))
    except RevError:
        raise UserError(f"there is no revision {name}; `git log` and `dvc exp show` list them") from None


def read_revision(repo: Repo, name: str, commit: str) -> Revision:
    """The run at that commit, called `name`. Raises `UserError` where its results cannot be read."""
    try:
        with repo.switch(commit):
            summary = yaml.safe_load(repo.dvcfs.read_text(SUMMARY))
            results = f"{RESULTS}/{summary['iteration']}"
            predictions = io.StringIO(repo.dvcfs.read_text(f"{results}/{PREDICTIONS}"))
            return Revision(
                name,
                summary,
                pd.read_csv(predictions, dtype=str, keep_default_na=False),
                pd.read_parquet(io.BytesIO(repo.dvcfs.read_bytes(f"{results}/{MISTAKES}"))),
                yaml.safe_load(repo.dvcfs.read_text(f"/{PARAMS_FILE}")),
            )
    except (OSError, DvcException, ValueError, KeyError, AttributeError, TypeError, yaml.YAMLError) as error:
        what = f"the results of {name} cannot be read ({one_line(error)})"
        raise UserError(f"{what}; `dvc pull --all-commits` where a remote has them, or run it again") from None


if __name__ == "__main__":
    main()
