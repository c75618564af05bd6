"""Compare two revisions of a run on one page: python -m commands.compare BEFORE [AFTER] [--out comparison.html]

A revision is a commit, a branch, a tag, or the name of an experiment; without AFTER, it is what lies in the folder. The
page says which one is better on the same test images, what differs, and shows the images on which they differ.
"""

import io
from argparse import ArgumentParser
from pathlib import Path

import pandas as pd
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import RevError, resolve_rev

from noisy_student.core.config import PARAMS_FILE
from noisy_student.core.errors import UserError, cli_main, one_line
from noisy_student.core.files import write_bytes
from noisy_student.evaluation.history import MISTAKES, PREDICTIONS
from noisy_student.page.comparison import Revision
from noisy_student.page.render import comparison

HERE = "workspace"  # what DVC calls the files that lie in the folder
SUMMARY, RESULTS = "metrics/summary.json", "metrics/results"


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", help="a revision")
    parser.add_argument("after", nargs="?", default=HERE, help="another one; none: what lies in the folder")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"), help="a file to write, .html")
    args = parser.parse_args(argv)
    if args.out.suffix != ".html":
        raise UserError(f"{args.out} must end in .html")
    with Repo() as repo:
        before, after = (read_revision(repo, name) for name in (args.before, args.after))
    write_bytes(args.out, comparison(before, after).encode())
    print(f"see {args.out}")


def read_revision(repo: Repo, name: str) -> Revision:
    """The run at the revision `name`. Raises `UserError` where there is none, or DVC no longer has its results."""
    try:
        with repo.switch(HERE if name == HERE else resolve_rev(repo.scm, name)):
            files = repo.dvcfs
            summary = yaml.safe_load(files.read_text(SUMMARY))
            results = f"{RESULTS}/{summary['iteration']}"
            predictions = pd.read_csv(
                io.StringIO(files.read_text(f"{results}/{PREDICTIONS}")), dtype=str, keep_default_na=False
            )
            mistakes = pd.read_parquet(io.BytesIO(files.read_bytes(f"{results}/{MISTAKES}")))
            params = yaml.safe_load(files.read_text(str(PARAMS_FILE)))
    except RevError:
        raise UserError(f"there is no revision {name}; `git log` and `dvc exp show` list them") from None
    except (OSError, DvcException) as error:
        what = f"the results of {name} are not here ({one_line(error)})"
        raise UserError(f"{what}; `dvc pull --all-commits`, or run it again") from None
    return Revision(name, summary, predictions, mistakes, params)


if __name__ == "__main__":
    main()
