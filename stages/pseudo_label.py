"""Turn a teacher's logits into the pseudo-labels of an iteration. No forward pass: another threshold costs seconds.

Reads   the logits of the pool and the calibration split, the calibration split's labels
Writes  a folder: pseudo_labels.parquet (row, label, confidence, copies, target) and a readable report
Params  seed, pseudo_labels, iterations.<iteration>
"""

from pathlib import Path

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.randomness import Seed, generator
from noisy_student.core.workspace import guarded
from noisy_student.pseudo_labeling.calibration import fit_temperature
from noisy_student.pseudo_labeling.ood import read_ood_scores
from noisy_student.pseudo_labeling.selection import PseudoLabelParams, find_limits, make, of_iteration
from noisy_student.store.pseudo_labels import read_logits, save_pseudo_labels
from noisy_student.store.splits import read_split


@command
def main(*, iteration: str, logits: Path, calibration: Path, out: Path) -> None:
    params = ParamsFile()
    seed = params.section("seed", Seed)
    defaults = params.section("pseudo_labels", PseudoLabelParams)
    of = params.section(f"iterations.{iteration}", dict)
    chosen = of_iteration(defaults, of.get("pseudo_labels", {}), iteration)

    with guarded(__file__, params, {"logits": logits, "calibration": calibration}):
        split = read_split(calibration)
        known, pool = (read_logits(logits, split) for split in ("calibration", "pool"))
        temperature = fit_temperature(known, split.labels) if chosen.calibrate else 1.0
        usual, found = (read_ood_scores(logits, split, chosen) for split in ("calibration", "pool"))
        limits = find_limits(chosen, known, split.labels, temperature, usual)
        draw = generator(seed, f"balance of {iteration}")
        pseudo_labels = make(pool, chosen, temperature, draw, limits, found)
        chosen_by = {"temperature": temperature, **limits.figures()}
        save_pseudo_labels(out, pseudo_labels, split.classes, len(pool), chosen_by)
        kept = f"{len(pseudo_labels.rows):,} of {len(pool):,} pool images kept"
        print(f"{iteration}: {kept}, logits divided by {temperature:.2f}")


if __name__ == "__main__":
    main()
