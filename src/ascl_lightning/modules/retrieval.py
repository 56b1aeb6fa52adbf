"""The Lightning hooks around the model: training step, evaluation, optimiser."""

from dataclasses import dataclass

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW

from ascl_lightning.callbacks.thawing import Thawing
from ascl_lightning.data.batch import Features, ImageTextBatch, NegativeTexts
from ascl_lightning.losses import ContrastiveLoss
from ascl_lightning.metrics import RetrievalMetrics
from ascl_lightning.models.fusion import FusedSimilarity
from ascl_lightning.models.image_encoders import ImageEncoder
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.perturb import PerturbWords
from ascl_lightning.models.text_encoders import TextEncoder
from ascl_lightning.modules.parameter_groups import OptimizerFactory, build_optimizer
from ascl_lightning.modules.schedule import WarmupCosine

# (T+)- draws from keys of its own: the same noise on T and T+ would tie the two terms of the loss together
_POSITIVE_STREAM = 0x5DEECE66D


@dataclass(frozen=True)
class _TextGroup:
    """One positive text for each image, and what may stand beside it as negatives."""

    texts: Features
    negatives: list[Features]
    valid: list[Tensor]

    def add(self, negative: Features, valid: Tensor) -> None:
        self.negatives.append(negative)
        self.valid.append(valid)


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
        first_stage_weight: Weight of a further term, the same loss on the embeddings that belong to one item alone: the
            first stage of a two-stage search ranks by them.
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
        type_i_weight: float = 0.5,
        type_ii_iii_weight: float = 0.5,
        first_stage_weight: float = 0.0,
        project: bool = True,
        compile_towers: bool = False,
        optimizer: OptimizerFactory = AdamW,
        schedule: WarmupCosine = WarmupCosine(),
        fold_size: int | None = None,
    ) -> None:
        super().__init__()
        self.model = ImageTextModel(image_encoder, text_encoder, similarity, project)
        if compile_towers:
            self.model.compile_towers()
        self.loss = loss
        self.word_features = word_features
        self.evaluation = RetrievalMetrics(self.model.score, fold_size)
        self._weights = (type_i_weight, type_ii_iii_weight)
        self._first_stage_weight = first_stage_weight
        self._optimizer = optimizer
        self._schedule = schedule

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> Tensor:
        """Loss of one batch of pairs."""
        images, texts = self.model.encode_images(batch.images), self.model.encode_texts(batch.texts)
        keys = batch.sampling_keys
        if keys is None:
            raise ValueError("a training batch must bring sampling_keys; evaluation batches cannot be trained on")
        groups = {"type_i": self._with_negatives(texts, batch.negatives, keys)}
        if batch.positives is not None:
            positives = self.model.encode_texts(batch.positives)
            groups["type_ii_iii"] = self._with_negatives(positives, batch.positive_negatives, keys ^ _POSITIVE_STREAM)
        terms = self._terms(batch, images, groups)
        weights = torch.tensor(self._weights[: len(terms)], device=keys.device)
        loss = (weights * torch.stack(list(terms.values()))).sum() / weights.sum()
        if self._first_stage_weight > 0:
            similarity = self.model.similarity
            product = similarity.image_embeds(images) @ similarity.text_embeds(texts).T
            ids = {"image_ids": batch.image_ids, "text_image_ids": batch.text_image_ids}
            terms["first_stage"] = self.loss(product, **ids)
            loss = loss + self._first_stage_weight * terms["first_stage"]
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
        self.log(
            "train/skipped_images",
            float(len(batch.faults)),
            reduce_fx="sum",
            on_epoch=True,
            on_step=False,
            batch_size=size,
        )
        return loss

    def _with_negatives(self, texts: Features, word_level: NegativeTexts | None, keys: Tensor) -> _TextGroup:
        """T with its T-: from the batch, from the features of T, or from both side by side."""
        group = _TextGroup(texts, [], [])
        if self.loss.uses_negatives and word_level is not None:
            group.add(self.model.encode_texts(word_level.texts), word_level.valid)
        if self.loss.uses_negatives and self.word_features is not None:
            group.add(*self.word_features(texts, keys))
        return group

    def _terms(self, batch: ImageTextBatch, images: Features, groups: dict[str, _TextGroup]) -> dict[str, Tensor]:
        """L(I, T, T-) of each group. All texts are scored together: what scoring does for images, it does once."""
        parts = [part for group in groups.values() for part in (group.texts, *group.negatives)]
        scores = iter(self.model.score(images, Features.join(parts)).split([len(part.mask) for part in parts], dim=1))
        terms = {}
        for name, group in groups.items():
            similarity, negatives = next(scores), [next(scores) for _ in group.negatives]
            terms[name] = self.loss(
                similarity,
                torch.cat(negatives, dim=1) if negatives else None,
                image_ids=batch.image_ids,
                text_image_ids=batch.text_image_ids,
                negative_valid=torch.cat(group.valid) if negatives else None,
            )
        return terms

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

    def configure_callbacks(self) -> list[Callback]:
        """What towers that thaw during training need."""
        return [Thawing([self.model.image_encoder, self.model.text_encoder])]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The injected optimiser over all trainable parameters, and the schedule per step."""
        optimizer = build_optimizer(self._optimizer, self.model, self.loss)
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
        # on every process: each may stop training or choose a checkpoint by them
        self.log(f"{stage}/rsum", rsum, prog_bar=True)
        self.log_dict(metrics)
        self.evaluation.reset()
