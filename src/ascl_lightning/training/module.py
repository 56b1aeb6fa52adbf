"""The LightningModule: training step, evaluation and optimizer around the plain model."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW

from ascl_lightning.data.batch import EncodedBatch, ImageTextBatch
from ascl_lightning.errors import UserError
from ascl_lightning.losses import ContrastiveLoss
from ascl_lightning.metrics.gallery import Level
from ascl_lightning.metrics.retrieval import RetrievalMetrics
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.perturb import PerturbWords
from ascl_lightning.models.pooling import GeneralizedPooling
from ascl_lightning.models.projection import ProjectionSettings
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.towers.image import ImageEncoder
from ascl_lightning.models.towers.text import TextEncoder
from ascl_lightning.runtime.number_types import NonNegativeFloat, PositiveInt
from ascl_lightning.training.callbacks.last_validation import LastValidation
from ascl_lightning.training.callbacks.thawing import Thawing
from ascl_lightning.training.findings import Findings
from ascl_lightning.training.objective import Objective
from ascl_lightning.training.parameter_groups import OptimizerFactory, build_optimizer
from ascl_lightning.training.schedule import WarmupCosine, total_steps
from ascl_lightning.training.sharding import shard_weights
from ascl_lightning.training.terms import LossWeights

_REQUIRED = {"image_encoder", "text_encoder", "similarity", "loss"}


class RetrievalModule(LightningModule):
    """Trains and evaluates image-text retrieval.

    The training loss is the weighted mean of two terms (AsCL, docs/method.md#total): L(I, T, T-) for type I and
    L(I, T+, (T+)-) for types II and III. A batch without T+ has the first term only.

    Args:
        image_encoder: Image tower.
        text_encoder: Text tower.
        similarity: Scores projected images against projected texts; its `embed_dim` is the width of the projections.
        loss: `AsymmetricContrastiveLoss` or `InfoNCE`.
        word_features: Makes T- by perturbing projected word features, as published; None for no such T-. They are used
            in addition to the word-level T- of the data module.
        type_i_weight: Weight of the first term.
        type_ii_iii_weight: Weight of the second term.
        first_stage_weight: Weight of an additional term: the same loss on the independent embeddings, by which the
            first stage of a two-stage search ranks.
        distillation_weight: Weight of another term, by which the scores of the independent embeddings learn from the
            fused scores: their divergence, at the temperature of the loss.
        chunk_size: Images or texts that a tower encodes at a time in training. Saves activation memory at the cost of
            a second forward pass; the gradient stays that of the whole batch. None: all at once.
        fused_batch_size: Pairs of a process among which the fused scores are contrasted; the terms on independent
            embeddings still contrast all pairs. Time and memory of the fused scores grow with it, those of embeddings
            hardly with the batch. None: all pairs of all processes.
        project: True projects the towers' vectors linearly, settings say what happens to them before. False uses them
            without projection, as for a pretrained CLIP or SigLIP pair.
        image_pooling: Makes the global vectors of images from their projected tokens; None projects the tower's own.
        text_pooling: The same for texts.
        compile_towers: Compile both towers with `torch.compile` at their first batch.
        optimizer: Called with the parameter groups.
        schedule: Learning rate of each step.
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
        distillation_weight: NonNegativeFloat = 0.0,
        chunk_size: PositiveInt | None = None,
        fused_batch_size: PositiveInt | None = None,
        project: bool | ProjectionSettings = True,
        image_pooling: GeneralizedPooling | None = None,
        text_pooling: GeneralizedPooling | None = None,
        compile_towers: bool = False,
        optimizer: OptimizerFactory = AdamW,
        schedule: WarmupCosine = WarmupCosine(),
        fold_size: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.model = ImageTextModel(image_encoder, text_encoder, similarity, project, image_pooling, text_pooling)
        if compile_towers:
            self.model.compile_towers()
        self.loss = loss
        self.word_features = word_features
        levels = {name: Level(*level) for name, level in similarity.levels().items()}
        self.evaluation = RetrievalMetrics(self.model.score, fold_size, levels)
        weights = LossWeights(type_i_weight, type_ii_iii_weight, first_stage_weight, distillation_weight)
        self.model.freeze_unread(uses_global=similarity.local_weight < 1 or weights.read_embeds)
        self.findings = Findings()
        self._objective = Objective(self.model, loss, word_features, weights, chunk_size, fused_batch_size)
        # raises for invalid numbers, such as a negative learning rate, before the run starts
        optimizer([nn.Parameter(torch.zeros(1))])
        self._optimizer = optimizer
        self._schedule = schedule

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, **arguments: Any) -> "RetrievalModule":  # type: ignore[override]
        """Lightning's method; `arguments` must include the constructor's, since a checkpoint holds only weights.

        Raises:
            UserError: If required arguments are missing.
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
        """Whether scores, global vectors or T- need local tokens; otherwise only pooled vectors are loaded."""
        return self.model.uses_tokens or self.word_features is not None

    def setup(self, stage: str) -> None:
        """Drops the findings of an earlier run."""
        self.findings = Findings()

    def configure_model(self) -> None:
        """Shards the weights under FSDP2 (Lightning's `ModelParallelStrategy`)."""
        if self.device_mesh is not None:
            shard_weights(self, self.device_mesh, ("training_step", "validation_step", "test_step", "predict_step"))

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> Tensor:
        """Loss of this rank's pairs, contrasted with the pairs of all ranks."""
        terms = self._objective(batch)
        values, size = terms.of_batch(), len(batch.image_ids)
        self.log("train/loss", values.pop("loss"), prog_bar=True, batch_size=size)
        self.log_dict({f"train/loss_{name}": value for name, value in values.items()}, batch_size=size)
        if self.loss.temperature is not None:
            self.log("train/logit_scale", 1 / self.loss.temperature(), batch_size=size)
        counts = {"train/truncated_texts": batch.num_truncated, "train/skipped_images": len(batch.faults)}
        totals = {name: float(count) for name, count in counts.items()}
        self.log_dict(totals, reduce_fx="sum", on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        return terms.loss

    def encode(self, batch: ImageTextBatch) -> EncodedBatch:
        """Encodes images and texts independently of each other."""
        images, texts = self.model.encode_images(batch.images), self.model.encode_texts(batch.texts)
        similarity = self.model.similarity
        return EncodedBatch(images, texts, similarity.image_embeds(images), similarity.text_embeds(texts))

    def collect(self, batch: ImageTextBatch, metrics: RetrievalMetrics) -> None:
        """Encodes a batch and adds it to the metrics of a whole split."""
        of = self.encode(batch)
        ids = batch.text_ids, batch.text_image_ids
        metrics.update(of.images, batch.image_ids, of.texts, *ids, of.image_embeds, of.text_embeds)

    def validation_step(self, batch: ImageTextBatch, batch_idx: int) -> None:
        """Collects encoded images and texts; `on_validation_epoch_end` scores them."""
        self.collect(batch, self.evaluation)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Scores the whole split."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Scores the whole split, if it is ranked."""
        if self.findings.is_ranked:
            self._log_metrics("test")

    def predict_step(self, batch: ImageTextBatch, batch_idx: int) -> dict[str, Tensor]:
        """Independent embeddings of a batch's images and texts, with their rows in the split."""
        encoded = self.encode(batch)
        return {
            "image_embeds": encoded.image_embeds,
            "image_ids": batch.image_ids,
            "text_embeds": encoded.text_embeds,
            "text_ids": batch.text_ids,
            "text_image_ids": batch.text_image_ids,
        }

    def configure_callbacks(self) -> list[Callback]:
        """Lightning runs these after the trainer's callbacks, which may stop the training, and before checkpoints."""
        return [Thawing([self.model.image_encoder, self.model.text_encoder]), LastValidation()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The injected optimizer over all trainable parameters, with a schedule that steps per batch."""
        optimizer = build_optimizer(self._optimizer, self.model, self.loss)
        scheduler = self._schedule.scheduler(optimizer, total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _log_metrics(self, stage: str) -> None:
        metrics = {f"{stage}/{name}": value for name, value in self.evaluation.compute().items()}
        rsum = metrics.pop(f"{stage}/rsum")
        # every rank computes the same value, so all agree on the best checkpoint
        self.log(f"{stage}/rsum", rsum, prog_bar=True)
        self.log_dict(metrics)
        self.evaluation.reset()
