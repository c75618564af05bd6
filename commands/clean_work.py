"""Remove work in progress and the finished results that are kept beside the outputs: python -m commands.clean_work"""

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from noisy_student.errors import exits_with_a_sentence
from noisy_student.work import work_folder


@exits_with_a_sentence
def main() -> None:
    work, freed = work_folder(), 0
    names = {path.name for path in [*work.glob("*"), *work.glob("locks/*")]} - {"locks"}
    for name in sorted(names):
        lock = work / "locks" / name
        try:
            with FileLock(lock, timeout=0):
                freed += remove(work / name)
                lock.unlink()
        except Timeout:
            print(f"{name} is left: {lock.read_text()} works on it")
    print(f"{freed / 1e6:,.1f} MB freed in {work}")


def remove(folder: Path) -> int:
    """Remove `folder`, which need not be there, and say how many bytes its files took."""
    if not folder.exists():
        return 0
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    shutil.rmtree(folder)
    return size


if __name__ == "__main__":
    main()
