"""One small data set, written in the layout of each source; any test may use it."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
from jaxtyping import TypeCheckError
from PIL import Image
from pyarrow import parquet
from tests.helpers.datasets import write_picture

from ascl_lightning.data.sources import (
    CaptionFolder,
    CocoCaptions,
    CsvTable,
    Flickr30kHub,
    FlickrTokens,
    HardNegatives,
    HubDataset,
    JsonLines,
    KarpathyJson,
    Mixture,
    ParquetTable,
    Source,
    Split,
    WebDataset,
)
from ascl_lightning.errors import UserError

Content = Mapping[str, Sequence[tuple[str, tuple[str, ...]]]]
"""For each split its images: a file name, and the captions."""


@dataclass(frozen=True)
class Layout:
    """How a source's files are written, and what it cannot say."""

    write: Callable[[Path, Content], Source]
    image_id: Callable[[str], str] = lambda name: name
    needs_captions: bool = False
    """A row is a caption: an image without any does not exist."""
    split: str = "train"
    """The split as which the images of the content's `train` are read."""


def write_pictures(folder: Path, content: Content, split: str | None = None) -> None:
    """Every image of the content, another picture each, the same in every layout."""
    index = 0
    for name_of_split, images in content.items():
        for name, _ in images:
            if split in (None, name_of_split):
                write_picture(folder / name, index)
            index += 1


def write_json_lines(root: Path, content: Content) -> Source:
    write_pictures(root, content)
    for split, images in content.items():
        lines = (json.dumps({"image": name, "captions": list(captions)}) + "\n" for name, captions in images)
        (root / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return JsonLines({split: f"{split}.jsonl" for split in content})


def write_csv(root: Path, content: Content) -> Source:
    write_pictures(root, content)
    with (root / "all.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["split", "image", "caption"])
        table.writerows(
            (split, name, text) for split, images in content.items() for name, texts in images for text in texts
        )
    return CsvTable("all.csv")


def write_parquet(root: Path, content: Content) -> Source:
    write_pictures(root, content)
    rows = [
        {"split": split, "image": name, "captions": list(captions)}
        for split, images in content.items()
        for name, captions in images
    ]
    kinds = pa.schema({"split": pa.string(), "image": pa.string(), "captions": pa.list_(pa.string())})
    parquet.write_table(pa.Table.from_pylist(rows, schema=kinds), root / "all.parquet")
    return ParquetTable("all.parquet")


def write_karpathy_json(root: Path, content: Content) -> Source:
    write_pictures(root / "images", content)
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": caption} for caption in captions]}
        for split, of_split in content.items()
        for name, captions in of_split
    ]
    (root / "dataset.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    return KarpathyJson("dataset.json")


def write_coco_captions(root: Path, content: Content) -> Source:
    for split, of_split in content.items():
        write_pictures(root / split, content, split)
        images = [{"id": name, "file_name": name} for name, _ in of_split]
        annotations = [{"image_id": name, "caption": text} for name, texts in of_split for text in texts]
        (root / f"{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations}), encoding="utf-8"
        )
    return CocoCaptions({split: f"{split}.json" for split in content}, {split: split for split in content})


def write_flickr_tokens(root: Path, content: Content) -> Source:
    write_pictures(root / "flickr30k-images", content)
    lines = []
    for split, images in content.items():
        (root / f"{split}.txt").write_text("".join(f"{Path(name).stem}\n" for name, _ in images), encoding="utf-8")
        lines += [f"{name}#{i}\t{text}\n" for name, texts in images for i, text in enumerate(texts)]
    (root / "results.token").write_text("".join(lines), encoding="utf-8")
    return FlickrTokens("results.token", {split: f"{split}.txt" for split in content})


def write_flickr30k_hub(root: Path, content: Content) -> Source:
    write_pictures(root / "flickr30k-images", content)
    with (root / "flickr_annotations_30k.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["raw", "sentids", "split", "filename", "img_id"])
        for split, images in content.items():
            table.writerows((json.dumps(texts), "[]", split, name, 0) for name, texts in images)
    return Flickr30kHub()


def write_caption_folder(root: Path, content: Content) -> Source:
    for split, images in content.items():
        write_pictures(root / split, content, split)
        for name, captions in images:
            if captions:
                text = "".join(f"{caption}\n" for caption in captions)
                (root / split / name).with_suffix(".txt").write_text(text, encoding="utf-8")
    return CaptionFolder()


def write_shards(root: Path, content: Content, per_shard: int = 2) -> Source:
    """Tar archives `SPLIT-000000.tar` ... of `NAME.jpg` and `NAME.json`."""
    index = 0
    for split, images in content.items():
        for first in range(0, len(images), per_shard):
            with tarfile.open(root / f"{split}-{first // per_shard:06d}.tar", "w") as archive:
                for name, captions in images[first : first + per_shard]:
                    picture = root / "pictures" / name
                    write_picture(picture, index)
                    index += 1
                    add_member(archive, f"{Path(name).stem}{picture.suffix}", picture.read_bytes())
                    text = json.dumps({"captions": list(captions)}).encode()
                    add_member(archive, f"{Path(name).stem}.json", text)
    return WebDataset({split: f"{split}-*.tar" for split in content}, captions="json")


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a regular file to an archive."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def hub_rows(root: Path, content: Content, split: str) -> dict[str, list[object]]:
    write_pictures(root / "pictures", content, split)
    return {
        "name": [name for name, _ in content[split]],
        "image": [str(root / "pictures" / name) for name, _ in content[split]],
        "caption": [list(captions) for _, captions in content[split]],
    }


HUB_FEATURES = datasets.Features(
    {"name": datasets.Value("string"), "image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))}
)


def write_hub_parquet(root: Path, content: Content) -> Source:
    for split in content:
        rows = datasets.Dataset.from_dict(hub_rows(root, content, split), HUB_FEATURES)
        (root / "hub" / "data").mkdir(parents=True, exist_ok=True)
        # as the hub has it: pictures inside
        embedded = rows.map(lambda row: row, features=HUB_FEATURES, keep_in_memory=True).with_format("arrow")
        table = datasets.table.embed_table_storage(embedded.data.table)
        name = {"val": "validation"}.get(split, split)
        parquet.write_table(table, root / "hub" / "data" / f"{name}-00000-of-00001.parquet")
    return HubDataset("hub", image_id="name", splits={"val": "validation"}, cache_dir=str(root / "cache"))


def write_hub_arrow(root: Path, content: Content) -> Source:
    whole = datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(hub_rows(root, content, split), HUB_FEATURES) for split in content}
    )
    whole.save_to_disk(str(root / "hub"))
    return HubDataset("hub", image_id="name", cache_dir=str(root / "cache"))


def write_image_folder(root: Path, content: Content) -> Source:
    for split, images in content.items():
        write_pictures(root / "hub" / split, content, split)
        lines = (json.dumps({"file_name": n, "name": n, "caption": list(texts)}) + "\n" for n, texts in images)
        (root / "hub" / split / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return HubDataset("hub", image_id="name", splits={"val": "validation"}, cache_dir=str(root / "cache"))


def write_mixture(root: Path, content: Content) -> Source:
    """The first half of each split as JSON lines, the rest as Karpathy's JSON."""
    first = {split: images[: len(images) // 2 or 1] for split, images in content.items()}
    rest = {split: images[len(images) // 2 or 1 :] for split, images in content.items()}
    parts = {"a": write_json_lines(_folder(root / "a"), first), "b": write_karpathy_json(_folder(root / "b"), rest)}
    return Mixture(parts, folders={"a": "a", "b": "b"})


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def stem(name: str) -> str:
    return Path(name).stem


LAYOUTS = {
    "jsonl": Layout(write_json_lines),
    "csv": Layout(write_csv, needs_captions=True),
    "parquet": Layout(write_parquet),
    "karpathy": Layout(write_karpathy_json),
    "coco": Layout(write_coco_captions),
    "flickr_tokens": Layout(write_flickr_tokens, needs_captions=True),
    "flickr30k_hub": Layout(write_flickr30k_hub),
    "caption_folder": Layout(write_caption_folder),
    "webdataset": Layout(write_shards, stem),
    "hub_parquet": Layout(write_hub_parquet),
    "hub_arrow": Layout(write_hub_arrow),
    "hub_imagefolder": Layout(write_image_folder),
}


def write_hard_negatives(root: Path, content: Content) -> Source:
    """A benchmark in the format of SugarCrepe, with a wrong text for every caption."""
    write_pictures(root / "images", content, "train")
    tests = [(name, text) for name, texts in content["train"] for text in texts]
    records = [{"filename": name, "caption": text, "negative_caption": f"no {text}"} for name, text in tests]
    root.mkdir(parents=True, exist_ok=True)
    (root / "made_up.json").write_text(json.dumps(dict(enumerate(records))), encoding="utf-8")
    return HardNegatives(["made_up.json"])


BENCHMARKS = {"hard_negatives": Layout(write_hard_negatives, needs_captions=True, split="test")}
"""Layouts with a test split only."""
ALL_LAYOUTS = LAYOUTS | BENCHMARKS


def read_split(source: Source, root: Path, split: str = "train") -> Split:
    """Read a split whose pictures may be refused.

    The tests' type checker looks at an item of any sequence and so may meet the refusal, which is then raised.
    """
    try:
        return source.read(root, split)
    except TypeCheckError as error:
        met: BaseException | None = error
        while met is not None and not isinstance(met, UserError):
            met = met.__cause__ or met.__context__
        raise met or error from None


def picture_of(image: object) -> Image.Image:
    """The picture that a source's `images` give, decoded by Pillow alone."""
    data = image.read_bytes() if isinstance(image, Path) else image.data  # type: ignore[attr-defined]
    return Image.open(io.BytesIO(data)).convert("RGB")
