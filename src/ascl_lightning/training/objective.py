"""The training loss of a batch on any number of ranks: encodes, scores and contrasts pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ascl_lightning.data.batch import Features, ImageTextBatch, MadeTexts, TokenizedTexts
from ascl_lightning.errors import UserError
from ascl_lightning.losses import ContrastiveLoss, PairScores
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.perturb import PerturbWords
from ascl_lightning.runtime.distributed import (
    gather_rows,
    gather_sequences,
    gather_sizes,
    mean_over_ranks,
    rank,
    transpose_scores,
)
from ascl_lightning.training.gradient_caching import encode_in_chunks, mixes_rows

# separate keys for (T+)-: equal noise on T and T+ would correlate the two terms of the loss
_POSITIVE_STREAM = 0x5DEECE66D

Texts = TokenizedTexts | Features


@dataclass(frozen=True)
class _TextGroup:
    """One positive text per image with its negatives, prepared for scoring."""

    texts: Features
    embeds: Tensor | None
    negatives: list[Features]
    valid: list[Tensor]

    def add(self, negatives: Features, valid: Tensor) -> None:
        self.negatives.append(negatives)
        self.valid.append(valid)


@dataclass(frozen=True)
class Terms:
    """Terms of the loss over the pairs of this rank.

    Args:
        of_rank: Mean of each term over the pairs of this rank, with gradient.
        weights: Weight of each term in the loss.
        scale: Number of pairs of this rank divided by the mean over ranks. With it, gradients averaged over ranks equal
            those of a single process with all pairs.
    """

    of_rank: dict[str, Tensor]
    weights: dict[str, float]
    scale: float

    @property
    def loss(self) -> Tensor:
        """The loss to backpropagate on this rank."""
        return self.scale * torch.stack([self.weights[name] * term for name, term in self.of_rank.items()]).sum()

    def of_batch(self) -> dict[str, Tensor]:
        """The loss and its terms over the pairs of all ranks, without gradient."""
        values = torch.stack([self.loss, *(self.scale * term for term in self.of_rank.values())])
        return dict(zip(("loss", *self.of_rank), mean_over_ranks(values), strict=True))


@dataclass(frozen=True)
class Objective:
    """L_AsCL (docs/method.md#total), plus an optional term with the same loss on independent embeddings.

    Args:
        model: Encodes and scores.
        loss: Contrasts scores.
        word_features: Makes T- from projected word features; None for no such T-.
        type_i_weight: Weight of L(I, T, T-).
        type_ii_iii_weight: Weight of L(I, T+, (T+)-); a batch without T+ has the first term only.
        first_stage_weight: Weight of the loss on independent embeddings, added to the weighted mean of the others.
        chunk_size: Images or texts that a tower encodes at a time; None: the whole batch.

    Raises:
        ValueError: If a weight is negative, those of types I and II/III are both zero, or `chunk_size` is below 1.
    """

    model: ImageTextModel
    loss: ContrastiveLoss
    word_features: PerturbWords | None
    type_i_weight: float
    type_ii_iii_weight: float
    first_stage_weight: float
    chunk_size: int | None

    def __post_init__(self) -> None:
        weights = (self.type_i_weight, self.type_ii_iii_weight, self.first_stage_weight)
        if min(weights) < 0 or self.type_i_weight + self.type_ii_iii_weight == 0:
            raise ValueError(
                f"weights of the loss must not be negative, and those of types I and II/III not both 0: {weights}"
            )
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size is {self.chunk_size}; give at least 1 row, or null for all")

    def __call__(self, batch: ImageTextBatch) -> Terms:
        """Computes the terms for the pairs of a batch, with the texts of all ranks as columns.

        Raises:
            ValueError: If it is an evaluation batch.
            UserError: If `chunk_size` is set and a tower has batch normalisation.
        """
        keys = batch.sampling_keys
        if keys is None:
            raise ValueError("the batch has no sampling_keys: evaluation batches cannot be trained on")
        self._check_chunks()
        images, image_embeds = encode_in_chunks(self._encode_images, batch.images, chunk_size=self.chunk_size)
        places = slice(None) if batch.image_places is None else batch.image_places
        groups = {"type_i": self._encode_group(batch.texts, batch.negatives, keys)}
        weights = {"type_i": 1.0}
        if batch.positives is not None:
            positive_keys = keys ^ _POSITIVE_STREAM
            groups["type_ii_iii"] = self._encode_group(batch.positives.texts, batch.positive_negatives, positive_keys)
            total = self.type_i_weight + self.type_ii_iii_weight
            weights = {"type_i": self.type_i_weight / total, "type_ii_iii": self.type_ii_iii_weight / total}
        pairs = _Pairs.of_all_ranks(batch.image_ids)
        terms = self._contrast(images, places, groups, pairs)
        text_embeds = groups["type_i"].embeds
        if image_embeds is not None and text_embeds is not None:
            # in half precision, close embeddings would have equal scores
            with torch.autocast(image_embeds.device.type, enabled=False):
                similarity = (image_embeds @ gather_rows(text_embeds, pairs.counts).T)[places]
            terms["first_stage"] = self.loss(pairs.scores(similarity))
            weights["first_stage"] = self.first_stage_weight
        return Terms(terms, weights, pairs.scale)

    def _contrast(
        self, images: Features, places: Tensor | slice, groups: dict[str, _TextGroup], pairs: "_Pairs"
    ) -> dict[str, Tensor]:
        """L(I, T, T-) of each group; all texts are scored in one call, so that images are processed once.

        `places` are the rows of the pairs' images.
        """
        parts = [part for group in groups.values() for part in (group.texts, *group.negatives)]
        own = Features.join(parts)
        texts = Features(*gather_sequences(own.pooled, own.tokens, own.mask))
        scores = self.model.similarity.compare(images, texts)[places]
        columns = iter(_columns_of_parts(scores, len(parts), pairs.counts))
        terms = {}
        for name, group in groups.items():
            similarity, negatives = next(columns), [next(columns) for _ in group.negatives]
            valid = [gather_rows(of, pairs.counts) for of in group.valid]
            terms[name] = self.loss(pairs.scores(similarity, negatives, valid))
        return terms

    def _encode_group(self, texts: Texts, word_level: MadeTexts | None, keys: Tensor) -> _TextGroup:
        """Encodes T with its T- from the batch and from word features."""
        encode = self._encode_texts
        own, embeds, noisy, noisy_valid = encode_in_chunks(encode, texts, keys, chunk_size=self.chunk_size)
        group = _TextGroup(own, embeds, [], [])
        if self.loss.uses_negatives and word_level is not None:
            (negatives,) = encode_in_chunks(self._encode_negatives, word_level.texts, chunk_size=self.chunk_size)
            group.add(negatives, word_level.valid)
        if noisy is not None and noisy_valid is not None:
            group.add(noisy, noisy_valid)
        return group

    def _encode_images(self, images: Tensor | Features) -> tuple[Features, Tensor | None]:
        features, similarity = self.model.encode_images(images), self.model.similarity
        embeds = similarity.image_embeds(features) if self.first_stage_weight > 0 else None
        return similarity.prepare_images(features), embeds

    def _encode_texts(
        self, texts: Texts, keys: Tensor
    ) -> tuple[Features, Tensor | None, Features | None, Tensor | None]:
        """Texts, their independent embeddings, and T- made from word features with their validity."""
        features, similarity = self.model.encode_texts(texts), self.model.similarity
        embeds = similarity.text_embeds(features) if self.first_stage_weight > 0 else None
        prepared = similarity.prepare_texts(features)
        if self.word_features is None or not self.loss.uses_negatives:
            return prepared, embeds, None, None
        perturbed, valid = self.word_features(features, keys)
        noisy = similarity.prepare_texts(perturbed)
        return prepared, embeds, noisy, valid & noisy.differ(prepared)

    def _encode_negatives(self, texts: Texts) -> tuple[Features]:
        return (self.model.similarity.prepare_texts(self.model.encode_texts(texts)),)

    def _check_chunks(self) -> None:
        towers = (self.model.image_encoder, self.model.text_encoder)
        mixing = [type(tower).__name__ for tower in towers if mixes_rows(tower)]
        if self.chunk_size is not None and mixing:
            raise UserError(
                f"{mixing[0]} has batch normalisation, which makes rows depend on the other rows of their chunk: "
                f"remove model.chunk_size, freeze the tower, or use a tower with another normalisation"
            )


@dataclass(frozen=True)
class _Pairs:
    """Positions of this rank's pairs among those of all ranks."""

    counts: list[int]
    image_ids: Tensor
    targets: Tensor

    @classmethod
    def of_all_ranks(cls, image_ids: Tensor) -> "_Pairs":
        (counts,) = gather_sizes(len(image_ids), device=image_ids.device)
        first = sum(counts[: rank()])
        targets = torch.arange(first, first + len(image_ids), device=image_ids.device)
        return cls(counts, gather_rows(image_ids, counts), targets)

    @property
    def scale(self) -> float:
        return len(self.targets) * len(self.counts) / sum(self.counts)

    def scores(self, similarity: Tensor, negatives: Sequence[Tensor] = (), valid: Sequence[Tensor] = ()) -> PairScores:
        """Scores of this rank's images with all texts and all kinds of T-."""
        return PairScores(
            similarity,
            negatives=torch.cat([*negatives], dim=1) if negatives else None,
            negative_valid=torch.cat([*valid]) if valid else None,
            image_ids=self.image_ids,
            text_similarity=transpose_scores(similarity, self.counts),
            targets=self.targets,
        )


def _columns_of_parts(scores: Tensor, num_parts: int, counts: list[int]) -> list[Tensor]:
    """Splits scores by part of the texts; gathered columns are ordered by rank, then by part."""
    pieces = scores.split([count for count in counts for _ in range(num_parts)], dim=1)
    if len(counts) == 1:
        return list(pieces)  # `cat` would copy
    return [torch.cat(pieces[part::num_parts], dim=1) for part in range(num_parts)]
