"""Print the table of iterations that the last run left.

python -m commands.table metrics/history.csv metrics/summary.json metrics/confusion.csv [--markdown]
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

from rich.console import Console

from noisy_student.core.errors import cli_main
from noisy_student.core.files import read_csv, read_json
from noisy_student.evaluation.results import table
from noisy_student.page.pull_request import pull_request

FILE_WIDTH = 100  # characters of the table, where it goes to a file


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("history", type=Path)
    parser.add_argument("summary", type=Path)
    parser.add_argument("confusion", type=Path)
    parser.add_argument("--markdown", action="store_true", help="as Markdown with a chart, for a pull request")
    args = parser.parse_args(argv)
    if args.markdown:
        print(pull_request(read_csv(args.history), read_json(args.summary)))
        return
    width, summary = None if sys.stdout.isatty() else FILE_WIDTH, read_json(args.summary)
    Console(width=width).print(table(read_csv(args.history), summary, read_csv(args.confusion, text=True)))
    if (folder := summary.get("deploy", {}).get("folder")) and not Path(folder).exists():
        remedy = "`make repro` trains it, and `dvc pull` fetches it where there is a remote"
        print(f"{folder} is not here yet: {remedy}", file=sys.stderr)


if __name__ == "__main__":
    main()
