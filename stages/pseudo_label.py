"""Turn a teacher's logits into the pseudo-labels of an iteration. No forward pass: another threshold costs seconds.

Reads   the logits of the pool and the calibration split, the calibration split's labels
Writes  a folder: pseudo_labels.parquet (row, label, confidence, copies), soft targets, and a readable report
Params  seed, guards, pseudo_labels, iterations.<iteration>
"""

from pathlib import Path

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.metrics import fit_temperature, softmax
from noisy_student.core.randomness import Seed, generator
from noisy_student.core.workspace import guarded
from noisy_student.pseudo_labeling.guards import GuardParams, faults, warnings
from noisy_student.pseudo_labeling.ood import ood_scores
from noisy_student.pseudo_labeling.selection import PseudoLabelParams, find_limits, make, of_iteration, softened
from noisy_student.store.pseudo_labels import predicted, read_logits, save_pseudo_labels
from noisy_student.store.splits import read_split


@command
def main(*, iteration: str, logits: Path, calibration: Path, out: Path) -> None:
    params = ParamsFile()
    seed = params.section("seed", Seed)
    guards = params.section("guards", GuardParams)
    defaults = params.section("pseudo_labels", PseudoLabelParams)
    section = params.section(f"iterations.{iteration}", dict)
    options = of_iteration(defaults, section.get("pseudo_labels", {}), iteration)

    with guarded(__file__, params, {"logits": logits, "calibration": calibration}):
        held_out = read_split(calibration)
        known, pool = (read_logits(logits, name) for name in ("calibration", "pool"))
        of_known = known[:]
        temperature = fit_temperature(of_known, held_out.labels) if options.calibrate else 1.0
        predictions = predicted(pool, temperature)
        scores = {name: ood_scores(logits, name, of, options) for name, of in (("calibration", known), ("pool", pool))}
        limits = find_limits(options, of_known, held_out.labels, temperature, scores["calibration"], predictions)
        draw = generator(seed, f"balance of {iteration}")
        pseudo_labels = softened(make(predictions, options, draw, limits, scores["pool"]), pool, temperature, options)
        of_held_out = softmax(of_known, temperature), held_out.labels
        given = *of_held_out, limits.threshold, held_out.classes, guards.least_precision
        for sentence in warnings(faults(predictions.labels, pseudo_labels, *given), guards, iteration):
            print(f"warning: {iteration}: {sentence}", flush=True)
        chosen_by = {"temperature": temperature, **limits.figures()}
        save_pseudo_labels(out, pseudo_labels, held_out.classes, len(pool), chosen_by)
        kept = f"{len(pseudo_labels.rows):,} of {len(pool):,} pool images kept"
        how = "calibrated confidences" if options.calibrate else "confidences"
        print(f"{iteration}: {kept}, by the teacher's {how}")


if __name__ == "__main__":
    main()
