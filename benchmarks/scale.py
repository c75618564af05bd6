"""Sums for the paper's scale, 3·10^8 images and EfficientNet-L2, on 8, 64 and 512 GPUs: python -m benchmarks.scale

What this machine can tell is measured here in half a minute, on one core; what it cannot is cited. Writes
benchmarks/scale.csv, the coefficients with their sources, and benchmarks/scale.md, the sums. They are arithmetic: no
run of that size was made.
"""

import hashlib
import io
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.limits import per_second
from benchmarks.processes import ROOT, hardware, run
from noisy_student.core.errors import cli_main
from noisy_student.core.files import write_bytes, write_csv
from noisy_student.core.markdown import markdown_table
from noisy_student.data.shard_contents import images_in
from noisy_student.store.decoding import Preparation, decode
from noisy_student.store.shard_files import BLOCK_BYTES, found_shards

SCALE = ROOT / "benchmarks" / "scale"
GPUS = (8, 64, 512)
SIDE = 475  # pixels, of EfficientNet-L2
PAPER = "[Xie et al. 2019](https://arxiv.org/abs/1911.04252)"
L2 = "[timm's card](https://huggingface.co/timm/tf_efficientnet_l2.ns_jft_in1k_475)"
LLAMA = "[Llama 3, 3.3.4](https://arxiv.org/abs/2407.21783)"
TPU = "[Google's page](https://cloud.google.com/tpu/docs/v3), 123 teraflops a chip of two cores"
H100 = "[NVIDIA's data sheet](https://www.nvidia.com/en-us/data-center/h100/)"
CITED = {  # what, value, unit, source
    "images in the pool": (3e8, "images", PAPER),
    "labeled images": (1.28e6, "images", PAPER),
    "epochs of a training, counted by labeled images": (350, "epochs", PAPER),
    "pool images for each labeled one in a batch": (14, "images", PAPER),
    "classes": (1000, "classes", PAPER),
    "parameters of EfficientNet-L2": (480.3e6, "numbers", L2),
    "multiply-adds of its forward pass at 475 pixels": (172.1e9, "an image", L2),
    "forward and backward pass, in forward passes": (
        3,
        "passes",
        "[Kaplan et al. 2020](https://arxiv.org/abs/2001.08361)",
    ),
    "an H100 in bfloat16, at its peak": (989e12, "operations/s", H100),
    "days of the paper's training of EfficientNet-L2": (6, "days", PAPER),
    "TPU v3 cores that it took": (2048, "cores", PAPER),
    "such a core in bfloat16, at its peak": (61.5e12, "operations/s", TPU),
    "GPU hours between two failures": (16_384 * 54 * 24 / 419, "hours", LLAMA),
    "images in a shard": (1e4, "images", "[img2dataset's default](https://github.com/rom1504/img2dataset)"),
    "copies of the weights in a checkpoint": (3, "copies", "weights, their average, and momentum; float32"),
    "between two checkpoints": (600, "s", "NOISY_STUDENT_CHECKPOINT_SECONDS; the default is 10"),
    "until lost ranks train again": (300, "s", "an assumption: a node is replaced, torchrun starts anew"),
}


@cli_main
def main() -> None:
    of_machine = f"measured, one core of {hardware()}"
    found = {**CITED, **{name: (value, unit, of_machine) for name, (value, unit) in measured().items()}}
    rows = [
        {"coefficient": name, "value": value, "unit": unit, "source": source}
        for name, (value, unit, source) in found.items()
    ]
    write_csv(SCALE.with_suffix(".csv"), pd.DataFrame(rows))
    values = {name: value for name, (value, *_) in found.items()}
    write_bytes(SCALE.with_suffix(".md"), text(values, rows).encode())


def measured() -> dict[str, tuple[float, str]]:
    """Rates of this machine with its own code, on the two photographs that scikit-learn carries."""
    photos = [encoded(photo) for photo in load_sample_images().images]
    how = Preparation(image_size=SIDE, resize="crop")
    rates = [per_second(lambda photo=photo: decode(photo, how), 1) for photo in photos]  # type: ignore[misc]
    return {
        "bytes of a JPEG of 640 x 427 pixels": (float(np.mean([len(photo) for photo in photos])), "bytes"),
        f"decoding it to {SIDE} pixels": (1 / float(np.mean([1 / rate for rate in rates])), "images/s"),
        "listing a tar": (listing_rate(photos[0]), "images/s"),
        "MD5, by which DVC knows a file": (
            per_second(lambda: hashlib.md5(bytes(10**8), usedforsecurity=False), 1e8),
            "bytes/s",
        ),
        **beginning(),
    }


def encoded(photo: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(photo).save(content, "JPEG", quality=90)
    return content.getvalue()


def listing_rate(photo: bytes) -> float:
    """Images a second whose place in a tar on the disk is found."""
    number = 2000
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(Path(folder, "a.tar"), "w") as archive:
            for name in range(number):
                member = tarfile.TarInfo(f"{name:06}.jpg")
                member.size = len(photo)
                archive.addfile(member, io.BytesIO(photo))
        (shard,) = found_shards([f"{folder}/a.tar"], Path(folder))
        return per_second(lambda: images_in(shard, Path(folder)), number)


def beginning() -> dict[str, tuple[float, str]]:
    """What a labeling of 3·10^8 images in 30,000 shards takes before it decodes one, half of them being done."""
    with tempfile.TemporaryDirectory() as folder:
        call = (sys.executable, "-m", "benchmarks.many_shards")
        run(ROOT, *call, "lay_out", folder)
        done = run(ROOT, *call, "begin", folder)
    found = done.figures()
    return {
        "reading the list of 30,000 shards, which prepare does": (found["list"], "s"),
        "reading a split of 30,000 shards": (found["split"], "s"),
        "finding which of 30,000 small files of logits are there": (found["done"], "s"),
        "all of that in a process of its own": (1 / done.speed, "s"),
        "its memory": (done.peak_mb, "MB"),
    }


def sums(of: dict[str, float], gpus: int) -> dict[str, str]:
    """The figures of one pass of the loop on that many GPUs, for a person."""
    images, size = of["images in the pool"], of["bytes of a JPEG of 640 x 427 pixels"]
    passes, forward, operations = of_training(of)
    rate = of["an H100 in bfloat16, at its peak"] * share_of_peak(of) * gpus  # operations a second
    labeling, training = images * forward / rate, operations / rate
    checkpoint = 4 * of["parameters of EfficientNet-L2"] * of["copies of the weights in a checkpoint"]
    written = training / of["between two checkpoints"] * checkpoint
    failures = training / 3600 * gpus / of["GPU hours between two failures"]
    each = of["between two checkpoints"] / 2 + of["until lost ranks train again"]
    in_training, in_labeling = passes / training, images / labeling
    cores = of[f"decoding it to {SIDE} pixels"]
    read = in_labeling * size
    return {
        "labeling the pool once": f"{labeling / 3600:,.1f} h",
        "one training": f"{training / 86400:,.1f} days",
        "GPU hours of three iterations": f"{3 * (labeling + training) / 3600 * gpus:,.0f}",
        "images/s that labeling asks for": f"{in_labeling:,.0f}",
        "images/s that training asks for": f"{in_training:,.0f}",
        "cores that decode for labeling": f"{in_labeling / cores:,.0f} ({in_labeling / cores / gpus:.1f} a GPU)",
        "cores that decode for training": f"{in_training / cores:,.0f} ({in_training / cores / gpus:.1f} a GPU)",
        "read from the store while labeling": f"{read / 1e9:,.2f} GB/s, {read / BLOCK_BYTES:,.0f} requests/s",
        "checkpoints written in a training": f"{written / 1e12:,.1f} TB, {checkpoint / 1e9:.1f} GB each",
        "lost nodes in a training": f"{failures:,.1f}, which cost {failures * each / 3600:,.2f} h",
    }


def of_training(of: dict[str, float]) -> tuple[float, float, float]:
    """Of a training: the images that pass, an image's operations forward, and all operations."""
    passes = of["epochs of a training, counted by labeled images"] * of["labeled images"]
    passes *= 1 + of["pool images for each labeled one in a batch"]
    forward = 2 * of["multiply-adds of its forward pass at 475 pixels"]
    return passes, forward, passes * forward * of["forward and backward pass, in forward passes"]


def share_of_peak(of: dict[str, float]) -> float:
    """The share of its peak that the paper's machine reached."""
    seconds = 86400 * of["days of the paper's training of EfficientNet-L2"]
    peak = of["TPU v3 cores that it took"] * of["such a core in bfloat16, at its peak"]
    return of_training(of)[-1] / seconds / peak


def whatever_the_gpus(of: dict[str, float]) -> dict[str, str]:
    """The figures that do not depend on the number of GPUs."""
    images, size = of["images in the pool"], of["bytes of a JPEG of 640 x 427 pixels"]
    shards, logits = images / of["images in a shard"], 4 * of["classes"] * images
    a_shard = size * of["images in a shard"]
    return {
        "the pool as JPEGs": f"{images * size / 1e12:,.0f} TB in {shards:,.0f} shards of {a_shard / 1e6:,.0f} MB",
        f"the pool as decoded pixels, {SIDE} a side": f"{images * SIDE**2 * 3 / 1e12:,.0f} TB",
        "requests that read it once": f"{images * size / BLOCK_BYTES:,.0f}, of {BLOCK_BYTES / 1e6:.0f} MB",
        "listing it, one core": f"{images / of['listing a tar'] / 3600:,.1f} h",
        "decoding it, one core": f"{images / of[f'decoding it to {SIDE} pixels'] / 86400:,.0f} days",
        "logits, float32": f"{logits / 1e12:,.1f} TB in {shards:,.0f} files",
        "DVC's MD5 of the logits, one core": f"{logits / of['MD5, by which DVC knows a file'] / 3600:,.1f} h",
        "the list of shards, which DVC tracks": f"{shards * 80 / 1e6:,.1f} MB, of about 80 bytes a shard",
        "share of its peak that a GPU reaches": f"{100 * share_of_peak(of):.0f} %",
    }


def text(values: dict[str, float], rows: list[dict[str, object]]) -> str:
    """The page of sums."""
    fixed = [[name, figure] for name, figure in whatever_the_gpus(values).items()]
    by_gpus = [sums(values, gpus) for gpus in GPUS]
    growing = [[name, *(figures[name] for figures in by_gpus)] for name in by_gpus[0]]
    known = [[str(row["coefficient"]), f"{row['value']:,.4g}", str(row["unit"]), str(row["source"])] for row in rows]
    return (
        "\n\n".join(
            [
                "# Sums for the paper's scale",
                "Arithmetic from the coefficients in the last table. No run of this size was made. A GPU is taken to "
                "reach the share of its peak that the paper's own run reached.",
                markdown_table(["", "one pass of the loop"], fixed),
                markdown_table(["", *(f"{gpus} GPUs" for gpus in GPUS)], growing),
                markdown_table(["coefficient", "value", "unit", "source"], known),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
