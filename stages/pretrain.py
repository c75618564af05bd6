"""Fetch or train the weights for models whose training.initial is pretrained.

Reads   a library's weights, a file, or the labeled images of a source (never those of `data`)
Writes  a folder with a subfolder for each model: weights, description, and the learning curve if they were trained
Params  seed, runtime, pretraining
"""

from pathlib import Path

from noisy_student.core import ranks
from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import write_json
from noisy_student.core.launch import ranked
from noisy_student.core.randomness import Seed
from noisy_student.core.workspace import work


@command
@ranked
def main(*, out: Path) -> None:
    given = ParamsFile().section("pretraining", dict)
    if given.get("source") != "none" or given.get("models"):
        pretrain(out)
    elif ranks.is_first():
        write_json(out / "pretrained.json", {"source": "none", "models": []})


def pretrain(out: Path) -> None:
    """Write the weights of the models, at least one."""
    from noisy_student.models.device import RuntimeParams, machine, setup  # torch takes a second to import
    from noisy_student.pretraining import PretrainingParams, make_weights

    params = ParamsFile()
    seed = params.section("seed", Seed)
    runtime = params.section("runtime", RuntimeParams)
    pretraining = params.section("pretraining", PretrainingParams)
    device = setup(runtime)
    used = machine(device, ranks.world_size() if pretraining.trains else 1)
    with work(out, __file__, params, {"path": pretraining.reads()}, used) as job:
        if not job.finished:
            make_weights(job, pretraining, runtime, device, seed)


if __name__ == "__main__":
    main()
