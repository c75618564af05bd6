"""Compute the features of a split's images by each pretrained network, once for all models that begin with it.

Reads   pretrained weights, the split
Writes  a folder for each network: float16 (n,F), 00000.npy and so on, one for each shard of the split; none where no
        model is pretrained
Params  runtime
"""

from pathlib import Path

from noisy_student.core import ranks
from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import read_json, write_json
from noisy_student.core.launch import ranked
from noisy_student.core.workspace import work


@command
@ranked
def main(*, pretrained: Path, images: Path, out: Path) -> None:
    if models := read_json(pretrained / "pretrained.json")["models"]:
        write_features(models, pretrained, images, out)
    elif ranks.is_first():
        write_json(out / "features.json", {"models": []})


def write_features(models: list[str], pretrained: Path, images: Path, out: Path) -> None:
    """Write the features by the `models`, at least one."""
    from noisy_student.models.device import RuntimeParams, machine, setup  # torch takes a second to import
    from noisy_student.models.extraction import extract_features

    params = ParamsFile()
    runtime = params.section("runtime", RuntimeParams)
    device = setup(runtime)
    with work(out, __file__, params, {"pretrained": pretrained, "images": images}, machine(device)) as job:
        if not job.finished:
            extract_features(job, models, pretrained, images, runtime, device)


if __name__ == "__main__":
    main()
