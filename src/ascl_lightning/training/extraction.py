"""Runs towers over a split once and stores their features, shard by shard."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySample, MadeText
from ascl_lightning.data.batch import Features, PixelSpec, RegionSpec, TokenizedTexts
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.feature_shards import Precision
from ascl_lightning.data.image_views import PLAIN, ImageView
from ascl_lightning.data.regions import OpenRegions
from ascl_lightning.data.sources.extracted import NUMBERS, PICTURES, VIEW_FOLDERS, view_folder
from ascl_lightning.data.stored_features import (
    FeatureTable,
    Manifest,
    SplitFeatures,
    TextFeatures,
    TextRows,
    holds_other_files,
    missing_shards,
    write_shard,
)
from ascl_lightning.data.text import clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.towers.base import hash_of_weights
from ascl_lightning.models.towers.image import ImageEncoder
from ascl_lightning.models.towers.text import TextEncoder
from ascl_lightning.runtime.files import atomic_file, write_file

CAPTIONS = "captions.jsonl"
_IMAGES_PER_PASS = 64
_TEXTS_PER_PASS = 256
_TOKENIZED_TOGETHER = 4096


@dataclass(frozen=True)
class Job:
    """A shard of a table of a split.

    Args:
        extraction: The extraction of the split.
        table: Folder of the table in that of the split: `texts`, or that of a view of the images.
        number: Number of the shard.
    """

    extraction: "SplitExtraction"
    table: str
    number: int


class SplitExtraction:
    """Extracts the features of a split: of its images, of its captions and the texts made from them, or both.

    Args:
        model: The model with the towers to run.
        datamodule: Reads the split; its operations make the texts.
        split: Name of the split.
        folder: Folder of the split's feature tables; need not exist.
        images: Run the image tower.
        texts: Run the text tower.
        variants: Number of epochs for which to make T+, T- and (T+)- of each caption.
        dtype: Data type of stored features.
        regions: Region features that another program extracted, for an image encoder that takes them.
        views: Views of the images to extract too, besides the plain one.

    Raises:
        UserError: If the image encoder takes region features and none are given, or the other way round.
    """

    def __init__(
        self,
        model: ImageTextModel,
        datamodule: RetrievalDataModule,
        split: str,
        folder: Path,
        images: bool,
        texts: bool,
        variants: int = 0,
        dtype: Precision = "float16",
        regions: OpenRegions | None = None,
        views: Sequence[ImageView] = (),
    ) -> None:
        if images and isinstance(model.image_encoder.spec, RegionSpec) != (regions is not None):
            raise UserError(
                "set --regions for an image encoder that takes region features (RegionEncoder), and for no other"
            )
        self.model = model
        self._regions = regions
        self.folder = folder
        self._datamodule = datamodule
        self._split = split
        self._view = datamodule.view(split)
        self._manifests: dict[str, Manifest] = {}
        self._image_views = {view_folder(view): view for view in (PLAIN, *views)} if images else {}
        if images:
            ids = self._view.split.image_ids
            cut = model.image_encoder.cut or ""
            plain = Manifest(fingerprint(model.image_encoder), _hash(ids), len(ids), dtype, cut=cut)
            for table, view in self._image_views.items():
                self._manifests[table] = plain if view == PLAIN else replace(plain, view=view.name)
        if texts:
            self._texts, self._rows = _distinct_texts(datamodule, split, variants)
            self._manifests["texts"] = Manifest(
                fingerprint(model.text_encoder),
                _hash(self._texts),
                len(self._texts),
                dtype,
                made_with=f"{datamodule.operations} {datamodule.seed}" if variants else "",
                cut=model.text_encoder.cut or "",
            )

    def prepare(self) -> None:
        """Writes manifests, captions and rows; removes features of other towers or data."""
        for table, manifest in self._manifests.items():
            manifest.write(self.folder / table)
        self._remove_outdated_views()
        if "texts" in self._manifests:
            self._rows.save(self.folder / "texts" / "rows")
        split = self._view.split
        _save(self.folder / PICTURES, self._datamodule.digest(self._split).pictures)
        (self.folder / NUMBERS).unlink(missing_ok=True)
        if split.caption_ids is not None:
            _save(self.folder / NUMBERS, split.caption_ids)
        rows = enumerate(zip(split.image_ids, split.captions, strict=True))
        lines = ({"image": str(i), "image_id": name, "captions": list(captions)} for i, (name, captions) in rows)
        write_file(self.folder / CAPTIONS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def jobs(self) -> list[Job]:
        """The missing shards."""
        return [
            Job(self, table, number)
            for table, manifest in self._manifests.items()
            for number in missing_shards(self.folder / table, manifest)
        ]

    @torch.no_grad()
    def run(self, job: Job, device: torch.device) -> None:
        """Encodes a shard and writes it.

        Raises:
            UserError: If images of a split other than `train` cannot be read; in `train` they are skipped.
        """
        manifest = self._manifests[job.table]
        rows = manifest.shard_rows(job.number)
        view = self._image_views.get(job.table)
        parts = self._encode_texts(rows, device) if view is None else self._encode_images(rows, device, view)
        write_shard(self.folder / job.table, job.number, list(parts), manifest.dtype)

    def features(self) -> SplitFeatures:
        """The extracted features, after all jobs have run."""
        tables = [FeatureTable(self.folder / table) for table in self._image_views]
        texts = None
        if "texts" in self._manifests:
            texts = TextFeatures(FeatureTable(self.folder / "texts"), TextRows.load(self.folder / "texts" / "rows"))
        return SplitFeatures(tables[0] if tables else None, texts, tuple(tables[1:]))

    def _remove_outdated_views(self) -> None:
        """Removes views of other pictures or towers, which were extracted before and are not extracted now."""
        current = self._manifests.get(view_folder(PLAIN))
        for folder in (self.folder / VIEW_FOLDERS).glob("*"):
            kept = Manifest.read(folder)
            if current is not None and kept is not None and replace(kept, view="", dtype=current.dtype) != current:
                shutil.rmtree(folder)

    def _encode_images(self, rows: range, device: torch.device, view: ImageView) -> Iterator[Features]:
        batches = [list(rows[start : start + _IMAGES_PER_PASS]) for start in range(0, len(rows), _IMAGES_PER_PASS)]
        spec = self.model.image_encoder.spec
        if self._regions is not None and isinstance(spec, RegionSpec):
            for batch in batches:
                yield self._regions.load([self._view.split.image_ids[row] for row in batch], spec)
            return
        for batch in self._datamodule.pictures_dataloader(self._split, batches, view):
            if batch.faults and self._split != "train":
                raise UserError(f"{len(batch.faults)} images cannot be read: {'; '.join(batch.faults.values())}")
            features = self.model.image_encoder.to_store(batch.images.to(device))
            # an image without tokens is one that training skips
            features.mask[list(batch.faults)] = False
            yield features

    def _encode_texts(self, rows: range, device: torch.device) -> Iterator[Features]:
        """Features of one text at a time, in order."""
        texts = self._datamodule.tokenizer()(self._texts[rows.start : rows.stop])[0]
        encoded: dict[int, Features] = {}
        for chosen, features in encoded_by_length(self.model.text_encoder.to_store, texts, device):
            for i, row in enumerate(chosen.tolist()):
                fields = (features.pooled, features.tokens, features.mask)
                encoded[row] = Features(*(field[i : i + 1].cpu() for field in fields))
        return (encoded[row] for row in range(len(texts)))


def foreign_entries(out: Path) -> list[str]:
    """Files in the output folder, or in its split folders, that no extraction writes; hidden files are ignored.

    Args:
        out: The folder of the splits; need not exist.
    """
    known = {"images", "texts", CAPTIONS, PICTURES, NUMBERS, VIEW_FOLDERS}
    entries = sorted(out.iterdir()) if out.is_dir() else []
    splits = [entry for entry in entries if entry.is_dir()]
    files = [entry for entry in entries if not entry.is_dir()]
    inside = [path for split in splits for path in split.iterdir()]
    files += [path for path in inside if path.name not in known]
    files += [path for path in inside if path.name in ("images", "texts") and holds_other_files(path)]
    tables = [table for split in splits for table in (split / VIEW_FOLDERS).glob("*")]
    files += [table for table in tables if holds_other_files(table)]
    return [str(path.relative_to(out)) for path in files if not path.name.startswith(".")]


def check_views(encoder: ImageEncoder, views: Sequence[ImageView]) -> None:
    """Checks that an encoder takes pictures in some views.

    Raises:
        UserError: If it takes region features, or pictures of a single size although a view is larger.
    """
    spec = encoder.spec
    if views and not isinstance(spec, PixelSpec):
        raise UserError("--views: region features have no views; remove the flag")
    size = max((view.spec(spec).size for view in views if isinstance(spec, PixelSpec)), default=0)
    if not isinstance(spec, PixelSpec) or size <= spec.size:
        return
    try:
        with torch.no_grad():
            encoder(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=next(encoder.parameters()).device))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--views: the image encoder takes no pictures of {size} x {size} pixels; remove 'larger'"
        ) from error


def encoded_by_length(
    encode: Callable[[TokenizedTexts], Features], texts: TokenizedTexts, device: torch.device
) -> Iterator[tuple[Tensor, Features]]:
    """Encodes texts in batches of similar length, which reduces padding.

    Args:
        encode: Encodes a batch, as `TextEncoder.to_store`.
        texts: Texts to encode.
        device: Device of the text tower.

    Yields:
        The rows of a batch, and their features.
    """
    lengths = texts.attention_mask.sum(dim=1)
    for chosen in lengths.argsort(stable=True).split(_TEXTS_PER_PASS):
        yield chosen, encode(_select(texts, chosen, int(lengths[chosen].max()), device))


class FeatureExtraction(LightningModule):
    """Runs extractions in Lightning's prediction loop: one shard per step, on any number of devices.

    Args:
        model: The model with the towers to run.
        extractions: The splits to extract.
    """

    def __init__(self, model: ImageTextModel, extractions: Sequence[SplitExtraction]) -> None:
        super().__init__()
        self.model = model
        self._extractions = extractions
        self._jobs: list[Job] = []

    def setup(self, stage: str) -> None:
        """Lists the missing shards before any rank writes one."""
        if self.trainer.is_global_zero:
            for extraction in self._extractions:
                extraction.prepare()
        self.trainer.strategy.barrier()
        self._jobs = [job for extraction in self._extractions for job in extraction.jobs()]
        self.trainer.strategy.barrier()

    def predict_dataloader(self) -> DataLoader[int]:
        """Numbers of this rank's jobs."""
        numbers = range(self.trainer.global_rank, len(self._jobs), self.trainer.world_size)
        return DataLoader(list(numbers), batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, batch: int, batch_idx: int) -> None:
        """Encodes one shard."""
        job = self._jobs[int(batch)]
        job.extraction.run(job, self.device)


def fingerprint(encoder: ImageEncoder | TextEncoder) -> str:
    """A hash of a tower's class, settings and weights; of a tower with a cut, of what lies below it."""
    cut = "" if encoder.cut is None else f" cut at {encoder.cut}"
    settings = f" {encoder.stored_settings}" if encoder.stored_settings else ""
    return hash_of_weights(encoder, f"{type(encoder).__name__} {encoder.spec}{cut}{settings}", without=encoder.above)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_file(path) as file:
        np.save(file, array)


def _hash(items: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.encode() + b"\0")
    return digest.hexdigest()


def _select(texts: TokenizedTexts, rows: Tensor, longest: int, device: torch.device) -> TokenizedTexts:
    fields = (texts.input_ids, texts.attention_mask, texts.special_mask)
    return TokenizedTexts(*(field[rows, :longest].to(device) for field in fields))


def _distinct_texts(datamodule: RetrievalDataModule, split: str, variants: int) -> tuple[list[str], TextRows]:
    """Distinct texts of a split, and the row of each caption and each text made from it among them.

    Texts with equal tokens are equal: a T- that differs from T only beyond the tokenizer's limit is invalid.
    """
    captions = datamodule.view(split).split.captions
    samples = _samples(datamodule, captions, variants)
    rows = _RowsByTokens(datamodule)
    texts = [clean_caption(caption) for of_image in captions for caption in of_image]
    of_captions = rows.add(texts)
    shape = len(texts), variants
    positives = _made_rows(rows, [sample.positive for sample in samples], shape)
    negatives = _made_rows(rows, [sample.negative for sample in samples], shape, of_captions[:, None])
    both = _made_rows(rows, [sample.positive_negative for sample in samples], shape, positives)
    return rows.texts, TextRows(of_captions, positives, negatives, both)


def _samples(
    datamodule: RetrievalDataModule, captions: Sequence[tuple[str, ...]], variants: int
) -> list[AsymmetrySample]:
    """The texts made from each caption in the first `variants` epochs; captions vary slowest."""
    maker = datamodule.text_maker()
    pairs = ((image, of_image, place) for image, of_image in enumerate(captions) for place in range(len(of_image)))
    return [
        maker.make(of_image, place, image, epoch, row)
        for row, (image, of_image, place) in enumerate(pairs)
        for epoch in range(variants)
    ]


def _made_rows(
    rows: "_RowsByTokens", made: Sequence[MadeText | None], shape: tuple[int, int], originals: np.ndarray | None = None
) -> np.ndarray:
    """Rows of the texts of one role; -1 where `Collate` would mark the text invalid."""
    given = [text for text in made if text is not None]
    if not given:
        return np.zeros((shape[0], 0), np.int64)
    found = rows.add([text.text for text in given]).reshape(shape)
    valid = np.reshape([text.valid for text in given], shape)
    return np.where(valid & (found != (-1 if originals is None else originals)), found, -1)


class _RowsByTokens:
    """Gives the same row to texts with the same tokens."""

    def __init__(self, datamodule: RetrievalDataModule) -> None:
        self.texts: list[str] = []
        self._tokenizer = datamodule.tokenizer()
        self._by_tokens: dict[bytes, int] = {}
        self._by_text: dict[str, int] = {}

    def add(self, texts: Sequence[str]) -> np.ndarray:
        """Row of each text, (M,)."""
        fresh = iter(dict.fromkeys(text for text in texts if text not in self._by_text))
        while chunk := list(islice(fresh, _TOKENIZED_TOGETHER)):
            for text, tokens in zip(chunk, self._tokenizer(chunk)[0].keys(), strict=True):
                row = self._by_tokens.setdefault(tokens, len(self.texts))
                if row == len(self.texts):
                    self.texts.append(text)
                self._by_text[text] = row
        return np.array([self._by_text[text] for text in texts], np.int64)
