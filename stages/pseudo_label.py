"""Turn a teacher's logits into the pseudo-labels of an iteration. No forward pass: another threshold costs seconds.

Reads   the logits of the pool and the calibration split, the calibration split's labels
Writes  a folder: pseudo_labels.parquet (row, label, confidence, copies, target) and what a person wants to know of it
Params  seed, pseudo_labels, iterations.<iteration>
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import cli_main
from noisy_student.core.randomness import Seed, generator
from noisy_student.core.workspace import guarded
from noisy_student.pseudo_labeling.calibration import fit_temperature
from noisy_student.pseudo_labeling.ood import read_ood_scores
from noisy_student.pseudo_labeling.selection import PseudoLabelParams, find_limits, make, of_iteration
from noisy_student.store.pseudo_labels import read_logits, save_pseudo_labels
from noisy_student.store.splits import read_split


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iteration", required=True)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    params = ParamsFile()
    seed = params.section("seed", Seed)
    defaults = params.section("pseudo_labels", PseudoLabelParams)
    iteration = params.section(f"iterations.{args.iteration}", dict)
    chosen = of_iteration(defaults, iteration.get("pseudo_labels", {}), args.iteration)

    with guarded(__file__, params, {"logits": args.logits, "calibration": args.calibration}):
        calibration = read_split(args.calibration)
        known, pool = (read_logits(args.logits, split) for split in ("calibration", "pool"))
        temperature = fit_temperature(known, calibration.labels) if chosen.calibrate else 1.0
        usual, found = (read_ood_scores(args.logits, split, chosen) for split in ("calibration", "pool"))
        limits = find_limits(chosen, known, calibration.labels, temperature, usual)
        draw = generator(seed, f"balance of {args.iteration}")
        made = make(pool, chosen, temperature, draw, limits, found)
        chosen_by = {"temperature": temperature, **limits.figures()}
        save_pseudo_labels(args.out, made, calibration.classes, len(pool), chosen_by)
        kept = f"{len(made.rows):,} of {len(pool):,} pool images kept"
        print(f"{args.iteration}: {kept}, logits divided by {temperature:.2f}")


if __name__ == "__main__":
    main()
