"""Remove work in progress and the finished results that are kept beside the outputs: python -m commands.clean_work"""

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from noisy_student.core.errors import cli_main
from noisy_student.core.nodes import FILE as NODES
from noisy_student.core.workspace import work_folder

KEPT = {"locks", NODES}  # other machines would take it that their stage is over


@cli_main
def main() -> None:
    work, freed = work_folder(), 0
    names = {path.name for path in [*work.glob("*"), *work.glob("locks/*")]} - KEPT
    for name in sorted(names):
        lock = work / "locks" / name
        try:
            with FileLock(lock, timeout=0):
                freed += remove(work / name)
                lock.unlink()
        except Timeout:
            print(f"{name} is left: {lock.read_text()} works on it")
    print(f"{freed / 1e6:,.1f} MB freed in {work}")


def remove(path: Path) -> int:
    """Remove the folder or file at `path`, which need not be there, and say how many bytes its files took."""
    size = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return size


if __name__ == "__main__":
    main()
