"""Runs frozen towers once a training instead of once an epoch."""

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import track
from torch import nn

from ascl_lightning.callbacks.parts import retrieval_data, retrieval_module
from ascl_lightning.data.batch import Features, PixelSpec, TokenizedTexts
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.features import FeatureTable, FeatureWriter
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.text_encoders import TextEncoder

_TEXTS_PER_PASS = 256


class FrozenFeatures(Callback):
    """Before the first epoch, encodes the training and validation images and captions with every frozen tower.

    An image tower qualifies if it is frozen and pictures are not augmented; a text tower, if it is frozen. Texts that
    are made during training (T+, T-) are not captions and go through the text tower as they come.

    Args:
        folder: Where the features are kept (float16) and found again by the next run with the same towers and data.
            None: in a temporary folder under `default_root_dir`, for this run alone.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encodes, and gives the tables to the data module before it builds its loaders."""
        model = retrieval_module(pl_module).model
        datamodule = retrieval_data(trainer)
        pixels = isinstance(model.image_encoder.spec, PixelSpec)
        images = pixels and model.image_encoder.frozen and not datamodule.augment
        texts = model.text_encoder.frozen
        if not (images or texts):
            return
        folder = Path(trainer.strategy.broadcast(self._make_folder(trainer)))
        for split in ("train", "val"):
            encoding = _Encoding(model, datamodule, split, folder / split, images, texts)
            if trainer.is_global_zero and not encoding.attach():
                with trainer.strategy.precision_plugin.forward_context():
                    encoding.write(pl_module.device)
            trainer.strategy.barrier()
            encoding.attach()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes a temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def _make_folder(self, trainer: Trainer) -> str:
        if self._folder is not None:
            return self._folder
        if not trainer.is_global_zero:
            return ""
        Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)
        self._temporary = tempfile.TemporaryDirectory(prefix="features-", dir=trainer.default_root_dir)
        return self._temporary.name


class _Encoding:
    """The features of one split: its images, its captions, or both."""

    def __init__(
        self,
        model: ImageTextModel,
        datamodule: RetrievalDataModule,
        split: str,
        folder: Path,
        images: bool,
        texts: bool,
    ) -> None:
        self._model = model
        self._datamodule = datamodule
        self._split = split
        self._view = datamodule.view(split)
        ids = self._view.split.image_ids
        self._images = (folder / "images", _fingerprint(model.image_encoder, ids)) if images else None
        captions = (caption for captions in self._view.split.captions for caption in captions)
        self._texts = (folder / "texts", _fingerprint(model.text_encoder, captions)) if texts else None

    def attach(self) -> bool:
        """Gives stored features to the split; False where some are missing or belong to other weights or data."""
        image_table = FeatureTable.open(*self._images) if self._images else None
        text_table = FeatureTable.open(*self._texts) if self._texts else None
        if (self._images and image_table is None) or (self._texts and text_table is None):
            return False
        self._view.image_table, self._view.text_table = image_table, text_table
        return True

    @torch.no_grad()
    def write(self, device: torch.device) -> None:
        """Runs the towers over the split."""
        image_writer = FeatureWriter(self._images[0]) if self._images else None
        text_writer = FeatureWriter(self._texts[0]) if self._texts else None
        loader = self._datamodule.evaluation_dataloader(self._split)
        for batch in track(loader, description=f"Frozen towers, {self._split} split, once"):
            if image_writer:
                image_writer.append(self._model.image_encoder(batch.images.to(device)))
            if text_writer:
                for features in _encode_by_length(self._model.text_encoder, batch.texts, device):
                    text_writer.append(features)
        if image_writer and self._images:
            image_writer.close(self._images[1])
        if text_writer and self._texts:
            text_writer.close(self._texts[1])


def _encode_by_length(encoder: TextEncoder, texts: TokenizedTexts, device: torch.device) -> Iterable[Features]:
    """Encodes texts in passes of similar length, so that little padding is computed; yields them in order, one each."""
    lengths = texts.attention_mask.sum(dim=1)
    encoded: dict[int, Features] = {}
    for rows in lengths.argsort().split(_TEXTS_PER_PASS):
        longest = int(lengths[rows].max())
        fields = (texts.input_ids, texts.attention_mask, texts.special_mask)
        features = encoder(TokenizedTexts(*(field[rows, :longest].to(device) for field in fields)))
        for i, row in enumerate(rows.tolist()):
            encoded[row] = Features(features.pooled[i : i + 1], features.tokens[i : i + 1], features.mask[i : i + 1])
    return (encoded[row] for row in range(len(lengths)))


def _fingerprint(encoder: nn.Module, items: Iterable[str]) -> str:
    """A hash of a tower's weights and input format, and of the items that it encodes."""
    digest = hashlib.sha256(repr(encoder.spec).encode())
    for name, value in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for item in items:
        digest.update(item.encode() + b"\0")
    return digest.hexdigest()
