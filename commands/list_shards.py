"""List shards of images for data.source shards: python -m commands.list_shards PATTERN... [--out shards.csv]

PATTERN is the path or the URL of tars or Parquet files, with wildcards, such as 's3://bucket/pool-*.tar'. The list has
the columns url, bytes and version. A shard that is no longer what its list says is refused, so list the shards again
when you add or change some: the next run takes up what is new.
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.core.errors import UserError, cli_main
from noisy_student.store.shard_files import found_shards, write_list


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help="path or URL of shards, with wildcards")
    parser.add_argument("--out", type=Path, default=Path("shards.csv"), help="the list (default: %(default)s)")
    args = parser.parse_args(argv)
    if not args.out.name:
        raise UserError("--out names no file; write for example --out shards.csv")
    shards = found_shards(args.patterns, args.out.parent)
    write_list(args.out, shards)
    total = sum(shard.bytes for shard in shards)
    print(f"wrote {args.out}; shards: {len(shards):,}, {total / 1e9:,.2f} GB")


if __name__ == "__main__":
    main()
