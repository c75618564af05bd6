"""Remove work in progress and the finished results that are kept beside the outputs: python -m commands.clean_work"""

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from noisy_student.errors import exits_with_a_sentence
from noisy_student.work import work_folder


@exits_with_a_sentence
def main() -> None:
    freed = 0
    for lock in sorted((work_folder() / "locks").glob("*")):
        try:
            with FileLock(lock, timeout=0):
                freed += remove(work_folder() / lock.name)
                lock.unlink()
        except Timeout:
            print(f"{lock.name} is left: {lock.read_text()} works on it")
    print(f"{freed / 1e6:,.1f} MB freed in {work_folder()}")


def remove(folder: Path) -> int:
    """Remove `folder`, which need not be there, and say how many bytes its files took."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    return size


if __name__ == "__main__":
    main()
