"""The Lightning hooks around the model: training step, evaluation, optimiser."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer

from ascl_lightning.data.batch import Features, ImageTextBatch, NegativeTexts
from ascl_lightning.losses import ContrastiveLoss
from ascl_lightning.metrics import RetrievalMetrics
from ascl_lightning.models.fusion import FusedSimilarity
from ascl_lightning.models.image_encoders import ImageEncoder
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.perturb import PerturbWords
from ascl_lightning.models.text_encoders import TextEncoder
from ascl_lightning.modules.schedule import WarmupCosine

# (T+)- draws from keys of its own: the same noise on T and T+ would tie the two terms of the loss together
_POSITIVE_STREAM = 0x5DEECE66D


class RetrievalModule(LightningModule):
    """Trains and evaluates image-text retrieval.

    The training loss is the weighted mean of two terms (AsCL, METHOD section 4): type I, L(I, T, T-), and types II and
    III, L(I, T+, (T+)-); without T+ in the batch it is the first alone.

    Args:
        image_encoder: Image tower.
        text_encoder: Text tower.
        similarity: Scores projected images against projected texts; its `embed_dim` is the common width.
        loss: `AsymmetricContrastiveLoss` or `InfoNCE`.
        word_features: Makes T- from the features of the valid words, after the projection, as published. None: not.
            The data module makes T- at word level; with both, both are negatives.
        type_i_weight: Weight of the first term.
        type_ii_iii_weight: Weight of the second term.
        project: False keeps the towers' own vectors, as a pretrained CLIP or SigLIP pair needs.
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
        type_i_weight: float = 0.5,
        type_ii_iii_weight: float = 0.5,
        project: bool = True,
        optimizer: Callable[[Iterable[Any]], Optimizer] = AdamW,
        schedule: WarmupCosine = WarmupCosine(),
        fold_size: int | None = None,
    ) -> None:
        super().__init__()
        self.model = ImageTextModel(image_encoder, text_encoder, similarity, project)
        self.loss = loss
        self.word_features = word_features
        self.evaluation = RetrievalMetrics(self.model.score, fold_size)
        self._weights = (type_i_weight, type_ii_iii_weight)
        self._optimizer = optimizer
        self._schedule = schedule

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> Tensor:
        """Loss of one batch of pairs."""
        images, texts = self.model.encode_images(batch.images), self.model.encode_texts(batch.texts)
        keys = batch.sampling_keys
        if keys is None:
            raise ValueError("a training batch must bring sampling_keys; evaluation batches cannot be trained on")
        terms = {"type_i": self._term(batch, images, texts, batch.negatives, keys)}
        if batch.positives is not None:
            positives = self.model.encode_texts(batch.positives)
            terms["type_ii_iii"] = self._term(
                batch, images, positives, batch.positive_negatives, keys ^ _POSITIVE_STREAM
            )
        weights = torch.tensor(self._weights[: len(terms)], device=keys.device)
        loss = (weights * torch.stack(list(terms.values()))).sum() / weights.sum()
        size = len(batch.image_ids)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        self.log_dict({f"train/loss_{name}": term for name, term in terms.items()}, batch_size=size)
        self.log("train/temperature", self.loss.temperature(), batch_size=size)
        self.log(
            "train/truncated_texts",
            float(batch.num_truncated),
            reduce_fx="sum",
            on_epoch=True,
            on_step=False,
            batch_size=size,
        )
        return loss

    def _term(
        self,
        batch: ImageTextBatch,
        images: Features,
        texts: Features,
        word_level: NegativeTexts | None,
        keys: Tensor,
    ) -> Tensor:
        """L(I, T, T-), with T- from the batch, from the features of T, or from both side by side."""
        negatives: list[tuple[Features, Tensor]] = []
        if self.loss.uses_negatives and word_level is not None:
            negatives.append((self.model.encode_texts(word_level.texts), word_level.valid))
        if self.loss.uses_negatives and self.word_features is not None:
            negatives.append(self.word_features(texts, keys))
        scores = [self.model.score(images, negative) for negative, _ in negatives]
        return self.loss(
            self.model.score(images, texts),
            torch.cat(scores, dim=1) if scores else None,
            image_ids=batch.image_ids,
            text_image_ids=batch.text_image_ids,
            negative_valid=torch.cat([valid for _, valid in negatives]) if negatives else None,
        )

    def validation_step(self, batch: ImageTextBatch, batch_idx: int) -> None:
        """Collects encoded images and texts."""
        self._collect(batch)

    def test_step(self, batch: ImageTextBatch, batch_idx: int) -> None:
        """As in validation."""
        self._collect(batch)

    def on_validation_epoch_end(self) -> None:
        """Scores the whole split."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Scores the whole split."""
        self._log_metrics("test")

    def predict_step(self, batch: ImageTextBatch, batch_idx: int) -> dict[str, Tensor]:
        """The pair-independent embeddings of a batch, with the rows of its images and texts."""
        images, texts = self.model.encode_images(batch.images), self.model.encode_texts(batch.texts)
        return {
            "image_embeds": self.model.similarity.image_embeds(images),
            "image_ids": batch.image_ids,
            "text_embeds": self.model.similarity.text_embeds(texts),
            "text_ids": batch.text_ids,
            "text_image_ids": batch.text_image_ids,
        }

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The injected optimiser over all trainable parameters, and the schedule per step."""
        rest, *towers = self.model.parameter_groups()
        groups = [{"params": [*rest["params"], *self.loss.parameters()]}, *towers]
        optimizer = self._optimizer(groups)
        scheduler = self._schedule.scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _collect(self, batch: ImageTextBatch) -> None:
        images, texts = self.model.encode_images(batch.images), self.model.encode_texts(batch.texts)
        similarity = self.model.similarity
        self.evaluation.update(
            images,
            batch.image_ids,
            texts,
            batch.text_ids,
            batch.text_image_ids,
            similarity.image_embeds(images),
            similarity.text_embeds(texts),
        )

    def _log_metrics(self, stage: str) -> None:
        metrics = {f"{stage}/{name}": value for name, value in self.evaluation.compute().items()}
        rsum = metrics.pop(f"{stage}/rsum")
        self.log(f"{stage}/rsum", rsum, prog_bar=True, rank_zero_only=True)
        self.log_dict(metrics, rank_zero_only=True)
        self.evaluation.reset()
