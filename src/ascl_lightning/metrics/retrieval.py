"""The torchmetrics class of validation and test: collects encoded images and texts, and ranks them at the end."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ascl_lightning.data.batch import Features
from ascl_lightning.metrics.embedding_quality import alignment, uniformity
from ascl_lightning.metrics.gallery import Gallery, Items, Level, Score
from ascl_lightning.metrics.ranks import streamed_ranks
from ascl_lightning.metrics.recall import fold_metrics, metrics_from_ranks


class RetrievalMetrics(Metric):
    """Retrieval metrics of a whole split in both directions, by the model's own score (docs/method.md#evaluation).

    Stores encoded items, tokens without padding, and scores them in tiles in `compute`. Repeated items, as from a
    distributed sampler, count once. On several ranks, each rank needs at least one batch.

    Args:
        score: Scores images against texts. The metric does not own it: `state_dict`, copies and `to` ignore it.
        fold_size: Also compute the mean over folds of this many images, as `folds/...` (COCO 1K: 1000), if the split
            has a whole fold; images are ordered by id.
        levels: Terms of the score by name; empty if it is not a sum.
        **kwargs: Passed to `torchmetrics.Metric`.

    Example:
        >>> def score(images, texts):
        ...     return images.pooled @ texts.pooled.T
        >>> items = Features(torch.eye(3), torch.zeros(3, 1, 3), torch.ones(3, 1, dtype=torch.bool))
        >>> metric, ids = RetrievalMetrics(score), torch.arange(3)
        >>> metric.update(items, ids, items, ids, ids, image_embeds=items.pooled, text_embeds=items.pooled)
        >>> metric.compute()["rsum"]
        600.0
    """

    full_state_update: bool = False
    is_differentiable: bool = False

    def __init__(
        self, score: Score, fold_size: int | None = None, levels: Mapping[str, Level] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.fold_size = fold_size
        self._scorer = _Unowned(score, levels or {})
        self._gallery: Gallery | None = None
        for kind in ("image", "text"):
            for field in ("ids", "pooled", "tokens", "lengths", "embeds"):
                self.add_state(f"{kind}_{field}", default=[], dist_reduce_fx="cat")
        self.add_state("text_image_ids", default=[], dist_reduce_fx="cat")

    def update(
        self,
        images: Features,
        image_ids: Integer[Tensor, " N"],
        texts: Features,
        text_ids: Integer[Tensor, " M"],
        text_image_ids: Integer[Tensor, " M"],
        image_embeds: Float[Tensor, "N D"],
        text_embeds: Float[Tensor, "M D"],
    ) -> None:
        """Adds a batch. The texts of an image may be in the same batch, in other batches, or missing.

        Args:
            images: Projected images, pooled (N, P), tokens (N, K, T), mask (N, K).
            image_ids: Id of each image in the split, (N,).
            texts: Projected texts, pooled (M, P), tokens (M, L, T), mask (M, L).
            text_ids: Id of each text in the split, (M,).
            text_image_ids: Id of each text's image, (M,).
            image_embeds: Independent embeddings, L2-normalised, (N, D).
            text_embeds: Independent embeddings, L2-normalised, (M, D).
        """
        self._gallery = None
        self._append("image", images, image_ids, image_embeds)
        self._append("text", texts, text_ids, text_embeds)
        self.text_image_ids.append(text_image_ids.long())

    def _append(self, kind: str, items: Features, ids: Tensor, embeds: Tensor) -> None:
        state = {
            "ids": ids.long(),
            "pooled": items.pooled,
            "tokens": items.tokens[items.mask],
            "lengths": items.mask.sum(dim=1),
            "embeds": embeds,
        }
        for field, value in state.items():
            getattr(self, f"{kind}_{field}").append(value.detach())

    def compute(self) -> dict[str, float]:
        """Ranks all collected items.

        Returns:
            The keys of `retrieval_metrics`; `alignment`, `uniformity/image`, `uniformity/text`; and with folds, the
            keys of `retrieval_metrics` again with the prefix `folds/`.

        Raises:
            ValueError: If the image of a text is missing, or there is no text.
        """
        gallery = self.gallery()
        num_images, image_of_text = len(gallery.images.ids), gallery.image_of_text
        metrics = metrics_from_ranks(*streamed_ranks(gallery.score, num_images, image_of_text))
        metrics["alignment"] = alignment(gallery.images.embeds, gallery.texts.embeds, image_of_text)
        metrics["uniformity/image"] = uniformity(gallery.images.embeds)
        metrics["uniformity/text"] = uniformity(gallery.texts.embeds)
        if self.fold_size is not None and self.fold_size <= num_images:
            folds = fold_metrics(gallery.score, num_images, image_of_text, self.fold_size)
            metrics |= {f"folds/{name}": value for name, value in folds.items()}
        return metrics

    def gallery(self) -> Gallery:
        """The items that all ranks have collected; cached until the next `update`.

        Raises:
            ValueError: If the image of a text is missing.
        """
        if self._gallery is None:
            alone = not self._is_synced  # in `compute`, torchmetrics has synced the state already
            with self.sync_context(should_sync=alone, should_unsync=alone):
                images, texts = self._items("image"), self._items("text")
                text_image_ids = dim_zero_cat(self.text_image_ids).to(self.device)[texts.rows]
            image_of_text = _rows_of(text_image_ids, images.ids)
            self._gallery = Gallery(images, texts, image_of_text, self._scorer.score, self._scorer.levels)
        return self._gallery

    def alone(self) -> "RetrievalMetrics":
        """An empty metric with the same scores, for items of this rank only."""
        scorer = self._scorer
        metrics = RetrievalMetrics(scorer.score, None, scorer.levels, distributed_available_fn=lambda: False)
        return metrics.to(self.device)

    def reset(self) -> None:
        """Drops all items."""
        super().reset()
        self._gallery = None

    def _items(self, kind: str) -> Items:
        state = {name: dim_zero_cat(getattr(self, f"{kind}_{name}")) for name in ("ids", "pooled", "lengths", "embeds")}
        tokens = getattr(self, f"{kind}_tokens")
        return Items(**state, tokens=[tokens] if isinstance(tokens, Tensor) else tokens, device=self.device)


class _Unowned:
    """Wraps the scorers so that they neither become submodules of the metric nor are copied with it."""

    def __init__(self, score: Score, levels: Mapping[str, Level]) -> None:
        self.score = score
        self.levels = levels

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Unowned":
        return self


def _rows_of(ids: Int[Tensor, " M"], sorted_ids: Int[Tensor, " N"]) -> Int[Tensor, " M"]:
    missing = ids[~torch.isin(ids, sorted_ids)]
    if len(missing):
        raise ValueError(f"image {missing[0].item()} is missing, but one of its texts is not")
    return torch.searchsorted(sorted_ids, ids)
