"""The Lightning hooks around the model: training step, evaluation, optimiser."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW

from ascl_lightning.data.batch import Features, ImageTextBatch
from ascl_lightning.errors import UserError
from ascl_lightning.losses import ContrastiveLoss
from ascl_lightning.metrics.gallery import Level
from ascl_lightning.metrics.retrieval import RetrievalMetrics
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.perturb import PerturbWords
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.towers.image import ImageEncoder
from ascl_lightning.models.towers.text import TextEncoder
from ascl_lightning.runtime.number_types import NonNegativeFloat, PositiveInt
from ascl_lightning.training.callbacks.thawing import Thawing
from ascl_lightning.training.findings import Findings
from ascl_lightning.training.objective import Objective
from ascl_lightning.training.parameter_groups import OptimizerFactory, build_optimizer
from ascl_lightning.training.schedule import WarmupCosine, total_steps
from ascl_lightning.training.sharding import shard_weights

_REQUIRED = {"image_encoder", "text_encoder", "similarity", "loss"}


@dataclass(frozen=True)
class Encoded:
    """Projected images and texts, and the embeddings that belong to one of them alone."""

    images: Features
    texts: Features
    image_embeds: Float[Tensor, "N D"]
    text_embeds: Float[Tensor, "M D"]


class RetrievalModule(LightningModule):
    """Trains and evaluates image-text retrieval.

    The training loss is the weighted mean of two terms (AsCL, docs/method.md#total): type I, L(I, T, T-), and types II
    and III, L(I, T+, (T+)-). Without T+ in the batch it is the first term alone.

    Args:
        image_encoder: Image tower.
        text_encoder: Text tower.
        similarity: Scores projected images against projected texts; its `embed_dim` is the common width.
        loss: `AsymmetricContrastiveLoss` or `InfoNCE`.
        word_features: Makes T- from the features of the valid words, after the projection, as published. None: not.
            The data module makes T- at word level; with both, both are negatives.
        type_i_weight: Weight of the first term.
        type_ii_iii_weight: Weight of the second term.
        first_stage_weight: Weight of a further term, the same loss on the embeddings that belong to one item alone: the
            first stage of a two-stage search ranks by them.
        chunk_size: Images or texts that a tower encodes at a time in training, for batches whose activations have no
            room in memory: the gradient is that of the whole batch, for a second pass through the towers. None: all.
        project: False keeps the towers' own vectors, as a pretrained CLIP or SigLIP pair needs.
        compile_towers: Run both towers through `torch.compile`, at their first batch; scoring has kernels of its own.
        optimizer: Called with the parameter groups.
        schedule: Learning rate, per step.
        fold_size: Also report the mean over folds of this many images (COCO: 1000).
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        similarity: FusedSimilarity,
        loss: ContrastiveLoss,
        word_features: PerturbWords | None = None,
        type_i_weight: NonNegativeFloat = 0.5,
        type_ii_iii_weight: NonNegativeFloat = 0.5,
        first_stage_weight: NonNegativeFloat = 0.0,
        chunk_size: PositiveInt | None = None,
        project: bool = True,
        compile_towers: bool = False,
        optimizer: OptimizerFactory = AdamW,
        schedule: WarmupCosine = WarmupCosine(),
        fold_size: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.model = ImageTextModel(image_encoder, text_encoder, similarity, project)
        if compile_towers:
            self.model.compile_towers()
        self.loss = loss
        self.word_features = word_features
        levels = {name: Level(*level) for name, level in similarity.levels().items()}
        self.evaluation = RetrievalMetrics(self.model.score, fold_size, levels)
        self.model.freeze_unread(uses_global=similarity.local_weight < 1 or first_stage_weight > 0)
        weights = type_i_weight, type_ii_iii_weight, first_stage_weight
        self.findings = Findings()
        self._objective = Objective(self.model, loss, word_features, *weights, chunk_size)
        # a number that it refuses, such as a rate below 0, shows here and not after the run has begun
        optimizer([nn.Parameter(torch.zeros(1))])
        self._optimizer = optimizer
        self._schedule = schedule

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, **arguments: Any) -> "RetrievalModule":  # type: ignore[override]
        """As Lightning's, where `arguments` hold those of the constructor: a checkpoint has weights alone.

        Raises:
            UserError: If they are missing.
        """
        if not arguments.keys() >= _REQUIRED:
            raise UserError(
                "a checkpoint holds no configuration: call ascl_lightning.Retriever.from_checkpoint(checkpoint, config)"
                f", or pass {', '.join(sorted(_REQUIRED))} too"
            )
        module: RetrievalModule = super().load_from_checkpoint(checkpoint_path, **{"weights_only": True} | arguments)
        return module

    @property
    def uses_tokens(self) -> bool:
        """Whether scores or T- need local tokens; if not, only pooled vectors are read."""
        return self.model.similarity.uses_tokens or self.word_features is not None

    def setup(self, stage: str) -> None:
        """Forgets what callbacks found in an earlier run."""
        self.findings = Findings()

    def configure_model(self) -> None:
        """Under FSDP2 (Lightning's `ModelParallelStrategy`), splits the weights over the processes."""
        if self.device_mesh is not None:
            shard_weights(self, self.device_mesh, ("training_step", "validation_step", "test_step", "predict_step"))

    def on_fit_start(self) -> None:
        """Refuses what would train something else than it says.

        Raises:
            UserError: If gradients are to be accumulated over batches.
        """
        if self.trainer.accumulate_grad_batches > 1:
            raise UserError(
                "a contrastive loss of several batches is not that of one large batch, which has more negatives: leave "
                "trainer.accumulate_grad_batches out, and set data.batch_size with model.chunk_size for less memory"
            )

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> Tensor:
        """Loss of the pairs of this process among those of all."""
        terms = self._objective(batch)
        values, size = terms.of_batch(), len(batch.image_ids)
        self.log("train/loss", values.pop("loss"), prog_bar=True, batch_size=size)
        self.log_dict({f"train/loss_{name}": value for name, value in values.items()}, batch_size=size)
        self.log("train/temperature", self.loss.temperature(), batch_size=size)
        counts = {"truncated_texts": batch.num_truncated, "skipped_images": len(batch.faults)}
        self.log_dict(
            {f"train/{name}": float(count) for name, count in counts.items()},
            reduce_fx="sum",
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=size,
        )
        return terms.loss

    def encode(self, batch: ImageTextBatch) -> Encoded:
        """Images and texts, each by itself, whatever else the batch holds."""
        images, texts = self.model.encode_images(batch.images), self.model.encode_texts(batch.texts)
        similarity = self.model.similarity
        return Encoded(images, texts, similarity.image_embeds(images), similarity.text_embeds(texts))

    def collect(self, batch: ImageTextBatch, metrics: RetrievalMetrics) -> None:
        """Encodes a batch for metrics of a whole split."""
        of = self.encode(batch)
        ids = batch.text_ids, batch.text_image_ids
        metrics.update(of.images, batch.image_ids, of.texts, *ids, of.image_embeds, of.text_embeds)

    def validation_step(self, batch: ImageTextBatch, batch_idx: int) -> None:
        """Collects encoded images and texts."""
        self.collect(batch, self.evaluation)

    def test_step(self, batch: ImageTextBatch, batch_idx: int) -> None:
        """As in validation."""
        self.collect(batch, self.evaluation)

    def on_validation_epoch_end(self) -> None:
        """Scores the whole split."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Scores the whole split."""
        self._log_metrics("test")

    def predict_step(self, batch: ImageTextBatch, batch_idx: int) -> dict[str, Tensor]:
        """The pair-independent embeddings of a batch, with the rows of its images and texts."""
        encoded = self.encode(batch)
        return {
            "image_embeds": encoded.image_embeds,
            "image_ids": batch.image_ids,
            "text_embeds": encoded.text_embeds,
            "text_ids": batch.text_ids,
            "text_image_ids": batch.text_image_ids,
        }

    def configure_callbacks(self) -> list[Callback]:
        """What towers that thaw during training need."""
        return [Thawing([self.model.image_encoder, self.model.text_encoder])]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The injected optimiser over all trainable parameters, and the schedule per step."""
        optimizer = build_optimizer(self._optimizer, self.model, self.loss)
        scheduler = self._schedule.scheduler(optimizer, total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _log_metrics(self, stage: str) -> None:
        metrics = {f"{stage}/{name}": value for name, value in self.evaluation.compute().items()}
        rsum = metrics.pop(f"{stage}/rsum")
        # the same on every rank, each of which stops and keeps checkpoints by it
        self.log(f"{stage}/rsum", rsum, prog_bar=True)
        self.log_dict(metrics)
        self.evaluation.reset()
