"""Encodes data with frozen towers once per training instead of once per epoch; checks stored features."""

import tempfile
from dataclasses import replace
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import track

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.stored_features import FeatureTable
from ascl_lightning.errors import UserError
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.towers.image import ImageEncoder
from ascl_lightning.models.towers.text import TextEncoder
from ascl_lightning.training.accessors import retrieval_data, retrieval_module
from ascl_lightning.training.extraction import SplitExtraction, fingerprint


class FrozenFeatures(Callback):
    """Encodes the training and validation split with every frozen tower before the first epoch.

    Images are encoded if the image tower is frozen and images are not augmented; captions, if the text tower is frozen.
    Of a tower with a cut, what enters the cut is kept. Texts made during training (T+, T-) still go through the whole
    text tower at each step. A streamed training split, and one whose pictures and captions are mixed, is not encoded.
    Features of the source (from `ascl extract`) must come from the model's own towers.

    Args:
        folder: Folder that keeps the features for later runs with the same towers and data. None: a temporary folder
            below `default_root_dir`.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encodes the splits and passes the features to the data module."""
        self._check(trainer, pl_module)
        datamodule = retrieval_data(trainer)
        self._check_mixing(retrieval_module(pl_module).model, datamodule)
        # pictures and captions that are mixed differ in each epoch
        changing = datamodule.mixing is not None and not datamodule.mixing.mixes_features
        splits = ["val"] if datamodule.streams or changing else ["train", "val"]
        for split in splits:
            self._encode(trainer, pl_module, split)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the features of the source."""
        if trainer.state.fn != "fit":
            self._check(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As for validation."""
        self._check(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As for validation."""
        self._check(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes a temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def _encode(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        model, datamodule = retrieval_module(pl_module).model, retrieval_data(trainer)
        view = datamodule.view(split)
        pixels = isinstance(model.image_encoder.spec, PixelSpec) and not datamodule.augmentation
        images = pixels and model.image_encoder.is_storable and view.features.images is None
        texts = model.text_encoder.is_storable and view.features.texts is None
        if not (images or texts):
            return
        folder = Path(trainer.strategy.broadcast(self._make_folder(trainer)))
        extraction = SplitExtraction(model, datamodule, split, folder / split, images, texts)
        if trainer.is_global_zero:
            extraction.prepare()
        trainer.strategy.barrier()
        jobs = extraction.jobs()
        # all ranks must list missing shards before any rank writes one
        trainer.strategy.barrier()
        with trainer.strategy.precision_plugin.forward_context():
            for job in track(
                jobs[trainer.global_rank :: trainer.world_size], f"Encoding the {split} split with frozen towers"
            ):
                extraction.run(job, pl_module.device)
        trainer.strategy.barrier()
        found = extraction.features()
        stored = view.features
        view.use(replace(stored, images=found.images or stored.images, texts=found.texts or stored.texts))

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_features(retrieval_data(trainer), retrieval_module(pl_module).model, trainer.state.fn == "fit")

    def _check_mixing(self, model: ImageTextModel, datamodule: RetrievalDataModule) -> None:
        """Checks that features will exist if they are to be mixed."""
        if datamodule.mixing is None or not datamodule.mixing.mixes_features:
            return
        stored, towers = datamodule.view("train").features, (model.image_encoder, model.text_encoder)
        # what a tower with a cut stores are activations, without a global vector
        images, texts = (
            tower.cut is None and (tower.tuning.frozen or table is not None)
            for tower, table in zip(towers, (stored.images, stored.texts), strict=True)
        )
        datamodule.mixing.check_features(images, texts, tokens=datamodule.with_tokens)

    def _make_folder(self, trainer: Trainer) -> str:
        if self._folder is not None:
            return self._folder
        if not trainer.is_global_zero:
            return ""
        Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="features-", dir=trainer.default_root_dir)
        return self._temporary.name


def check_features(datamodule: RetrievalDataModule, model: ImageTextModel, training: bool = False) -> None:
    """Checks that the features of the source come from the model's own towers.

    Args:
        datamodule: The splits that it has read so far are checked.
        model: The model.
        training: Whether the model will be trained.

    Raises:
        UserError: If features come from other towers, or from a tower that will be trained, or global vectors of crops
            are too wide or narrow to be tokens.
    """
    widths = model.image_encoder.pooled_dim, model.image_encoder.token_dim
    for view in datamodule.views.values():
        texts = view.features.texts
        if view.features.crops and widths[0] != widths[1]:
            raise UserError(
                "the image encoder's global vectors have width {} and its tokens {}, so that vectors of crops cannot "
                "be tokens: set data.source.init_args.crop_tokens to false".format(*widths)
            )
        for table in view.features.image_tables:
            _check_table(table, model.image_encoder, "image", training)
        if texts is not None:
            _check_table(texts.table, model.text_encoder, "text", training)


def _check_table(table: FeatureTable, encoder: ImageEncoder | TextEncoder, kind: str, training: bool) -> None:
    if training and not encoder.is_storable:
        raise UserError(
            f"the {kind} encoder is not frozen, but the data are its extracted features ({table.folder}): "
            f"set its `tuning.frozen` to true, or train on the original data"
        )
    if table.manifest.cut != (encoder.cut or ""):
        stored = f"activations that enter '{table.manifest.cut}'" if table.manifest.cut else "features of a whole tower"
        raise UserError(
            f"{table.folder}: holds {stored}, but `cut` of the {kind} encoder is {encoder.cut or 'null'}: set it to "
            f"{table.manifest.cut or 'null'}, or run `ascl extract` with this config"
        )
    if table.manifest.encoder != fingerprint(encoder):
        raise UserError(
            f"{table.folder}: these features come from another {kind} encoder, other weights or another transform than "
            f"the config's; run `ascl extract` with this config"
        )
