"""The training loss of a batch on any number of ranks: encodes, scores and contrasts pairs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor

from ascl_lightning.data.batch import Features, ImageTextBatch, MadeTexts, TokenizedTexts, map_tensors
from ascl_lightning.errors import UserError
from ascl_lightning.losses import ContrastiveLoss, PairScores, distillation
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.perturb import PerturbWords
from ascl_lightning.models.similarity.tokens import scoring_dtype, unit_vectors
from ascl_lightning.runtime.distributed import (
    gather_rows,
    gather_sequences,
    gather_sizes,
    rank,
    transpose_scores,
)
from ascl_lightning.training.gradient_caching import encode_in_chunks, mixes_rows
from ascl_lightning.training.terms import LossWeights, Terms

# separate keys for (T+)-: equal noise on T and T+ would correlate the two terms of the loss
_POSITIVE_STREAM = 0x5DEECE66D

Texts = TokenizedTexts | Features


@dataclass(frozen=True)
class _TextGroup:
    """One positive text per image with its negatives, prepared for scoring."""

    texts: Features
    embeds: Tensor | None
    tower_embeds: Tensor | None
    negatives: tuple[Features, ...] = ()
    valid: tuple[Tensor, ...] = ()

    def with_negatives(self, negatives: Features, valid: Tensor) -> "_TextGroup":
        return replace(self, negatives=(*self.negatives, negatives), valid=(*self.valid, valid))

    def text_to_text(self, counts: list[int]) -> Tensor | None:
        """Similarities of the texts in the text tower, (b, B)."""
        embeds = self.tower_embeds
        return None if embeds is None else _cosines(embeds, embeds, counts)


@dataclass(frozen=True)
class Objective:
    """L_AsCL (docs/method.md#total), plus optional terms on independent embeddings.

    Args:
        model: Encodes and scores.
        loss: Contrasts scores.
        word_features: Makes T- from projected word features; None for no such T-.
        weights: Weights of the terms.
        chunk_size: Images or texts that a tower encodes at a time; None: the whole batch.
        fused_batch_size: Pairs of this rank among which fused scores are contrasted; None: all pairs of all ranks. The
            terms on independent embeddings always contrast all pairs.

    Raises:
        ValueError: If `chunk_size` is below 1, or `fused_batch_size` below 2.
        UserError: If scores are to be distilled that are those of the independent embeddings, without temperature, or
            together with a `fused_batch_size`.
    """

    model: ImageTextModel
    loss: ContrastiveLoss
    word_features: PerturbWords | None
    weights: LossWeights
    chunk_size: int | None = None
    fused_batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.fused_batch_size is not None and self.fused_batch_size < 2:
            raise ValueError(f"fused_batch_size is {self.fused_batch_size}; give at least 2 pairs, or null for all")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size is {self.chunk_size}; give at least 1 row, or null for all")
        if self.weights.distillation > 0:
            self._check_distillation()

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
        places = batch.image_places
        groups = {"type_i": self._encode_group(batch.texts, batch.negatives, keys)}
        weights = {"type_i": 1.0}
        if batch.positives is not None:
            positive_keys = keys ^ _POSITIVE_STREAM
            groups["type_ii_iii"] = self._encode_group(batch.positives.texts, batch.positive_negatives, positive_keys)
            total = self.weights.type_i + self.weights.type_ii_iii
            weights = {"type_i": self.weights.type_i / total, "type_ii_iii": self.weights.type_ii_iii / total}
        pairs = _Pairs.of_all_ranks(batch.image_ids)
        if self.fused_batch_size is None:
            fused = self._score(images, places, groups, pairs)
            terms = {name: self.loss(scores) for name, scores in fused.items()}
        else:
            fused = {}
            terms = self._terms_of_parts(images, places, groups, batch.image_ids, self.fused_batch_size)
        first = groups["type_i"]
        if image_embeds is not None and first.embeds is not None:
            similarity = _at(_cosines(image_embeds, first.embeds, pairs.counts), places)
            first_stage = pairs.scores(similarity, first.text_to_text(pairs.counts))
            terms |= self._terms_of_embeds(first_stage, fused.get("type_i"))
            weights |= {"first_stage": self.weights.first_stage, "distillation": self.weights.distillation}
        return Terms(terms, weights, pairs.scale)

    def _terms_of_parts(
        self,
        images: Features,
        places: Tensor | None,
        groups: dict[str, _TextGroup],
        image_ids: Tensor,
        size: int,
    ) -> dict[str, Tensor]:
        """Mean over parts of this rank's pairs, each contrasted within itself.

        A part takes every n-th pair, so that captions of one image, which are neighbours, are in different parts.
        """
        num_pairs = len(image_ids)
        every = torch.arange(num_pairs, device=image_ids.device)
        parts = [every[first :: ceil(num_pairs / size)] for first in range(ceil(num_pairs / size))]
        order, sizes = torch.cat(parts), [len(part) for part in parts]
        in_order = (
            _rows(images, order if places is None else places[order]),
            tuple(_rows(group, order) for group in groups.values()),
            image_ids[order],
        )
        terms: dict[str, list[Tensor]] = {name: [] for name in groups}
        for of_part, of_groups, ids in _split(in_order, sizes):
            scores = self._score(of_part, None, dict(zip(groups, of_groups, strict=True)), _Pairs.of_part(ids))
            for name, of_group in scores.items():
                terms[name].append(len(ids) / num_pairs * self.loss(of_group))
        return {name: torch.stack(of).sum() for name, of in terms.items()}

    def _terms_of_embeds(self, first_stage: PairScores, fused: PairScores | None) -> dict[str, Tensor]:
        """The loss of the first stage, and the divergence of its scores from the fused scores."""
        terms = {}
        if self.weights.first_stage > 0:
            terms["first_stage"] = self.loss(first_stage)
        if self.weights.distillation > 0 and self.loss.temperature is not None and fused is not None:
            terms["distillation"] = distillation(fused, first_stage, self.loss.temperature())
        return terms

    def _score(
        self, images: Features, places: Tensor | None, groups: dict[str, _TextGroup], pairs: "_Pairs"
    ) -> dict[str, PairScores]:
        """Scores of each group; all texts are scored in one call, so that images are processed once.

        `places` are the rows of the pairs' images; None: row i is the image of pair i.
        """
        parts = [part for group in groups.values() for part in (group.texts, *group.negatives)]
        own = Features.join(parts)
        texts = pairs.texts_of_all(own)
        scores = _at(self.model.similarity.compare(images, texts), places)
        columns = iter(_columns_of_parts(scores, len(parts), pairs.counts))
        of_groups = {}
        for name, group in groups.items():
            similarity, negatives = next(columns), [next(columns) for _ in group.negatives]
            valid = [gather_rows(of, pairs.counts) for of in group.valid]
            of_groups[name] = pairs.scores(similarity, group.text_to_text(pairs.counts), negatives, valid)
        return of_groups

    def _encode_group(self, texts: Texts, word_level: MadeTexts | None, keys: Tensor) -> _TextGroup:
        """Encodes T with its T- from the batch and from word features."""
        own, embeds, tower_embeds, noisy, noisy_valid = encode_in_chunks(
            self._encode_texts, texts, keys, chunk_size=self.chunk_size
        )
        group = _TextGroup(own, embeds, tower_embeds)
        if self.loss.uses_negatives and word_level is not None:
            (negatives,) = encode_in_chunks(self._encode_negatives, word_level.texts, chunk_size=self.chunk_size)
            group = group.with_negatives(negatives, word_level.valid)
        if noisy is not None and noisy_valid is not None:
            group = group.with_negatives(noisy, noisy_valid)
        return group

    def _encode_images(self, images: Tensor | Features) -> tuple[Features, Tensor | None]:
        features, similarity = self.model.encode_images(images), self.model.similarity
        embeds = similarity.image_embeds(features) if self.weights.read_embeds else None
        return similarity.prepare_images(features), embeds

    def _encode_texts(
        self, texts: Texts, keys: Tensor
    ) -> tuple[Features, Tensor | None, Tensor | None, Features | None, Tensor | None]:
        """Texts, their embeddings and those of the tower, and T- made from word features with their validity."""
        of_tower, similarity = self.model.text_features(texts), self.model.similarity
        tower_embeds = _detached_unit(of_tower.pooled) if self.loss.uses_text_to_text else None
        features = self.model.project_texts(of_tower)
        embeds = similarity.text_embeds(features) if self.weights.read_embeds else None
        prepared = similarity.prepare_texts(features)
        if self.word_features is None or not self.loss.uses_negatives:
            return prepared, embeds, tower_embeds, None, None
        perturbed, valid = self.word_features(features, keys)
        noisy = similarity.prepare_texts(perturbed)
        return prepared, embeds, tower_embeds, noisy, valid & noisy.differ(prepared)

    def _encode_negatives(self, texts: Texts) -> tuple[Features]:
        return (self.model.similarity.prepare_texts(self.model.encode_texts(texts)),)

    def _check_distillation(self) -> None:
        if set(self.model.similarity.levels()) == {"independent"}:
            raise UserError(
                "the fused score is that of the independent embeddings, so there is nothing to distil: set "
                "model.distillation_weight to 0, or model.similarity.local_weight above 0"
            )
        if self.fused_batch_size is not None:
            raise UserError(
                "distillation compares the fused scores of all pairs: set model.distillation_weight to 0, or "
                "model.fused_batch_size to null"
            )
        if self.loss.temperature is None:
            raise UserError(
                f"{type(self.loss).__name__} has no temperature, which distillation needs: set "
                "model.distillation_weight to 0, or choose another loss"
            )

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

    @classmethod
    def of_part(cls, image_ids: Tensor) -> "_Pairs":
        """Pairs that are contrasted without those of other ranks."""
        return cls([len(image_ids)], image_ids, torch.arange(len(image_ids), device=image_ids.device))

    def texts_of_all(self, own: Features) -> Features:
        """Texts of all pairs."""
        return own if len(self.counts) == 1 else Features(*gather_sequences(own.pooled, own.tokens, own.mask))

    @property
    def scale(self) -> float:
        return len(self.targets) * len(self.counts) / sum(self.counts)

    def scores(
        self,
        similarity: Tensor,
        text_to_text: Tensor | None,
        negatives: Sequence[Tensor] = (),
        valid: Sequence[Tensor] = (),
    ) -> PairScores:
        """Scores of this rank's images with all texts and all kinds of T-."""
        return PairScores(
            similarity,
            negatives=torch.cat([*negatives], dim=1) if negatives else None,
            negative_valid=torch.cat([*valid]) if valid else None,
            image_ids=self.image_ids,
            text_similarity=transpose_scores(similarity, self.counts),
            targets=self.targets,
            text_to_text=text_to_text,
        )


def _rows(value: Any, rows: Tensor) -> Any:
    """Rows of all tensors of a value."""
    return map_tensors(value, lambda tensor: tensor[rows])


def _split(value: Any, sizes: list[int]) -> Iterator[Any]:
    """Values with consecutive rows of all tensors of a value."""
    tensors: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(value, collect)
    # the backward pass of `split` joins gradients; that of slices would fill and add one of all rows for each slice
    for parts in zip(*(tensor.split(sizes) for tensor in tensors), strict=True):
        yield map_tensors(value, partial(_next, iter(parts)))


def _next(parts: Iterator[Tensor], _: Tensor) -> Tensor:
    return next(parts)


def _at(scores: Tensor, places: Tensor | None) -> Tensor:
    return scores if places is None else scores[places]


def _cosines(own: Tensor, others: Tensor, counts: list[int]) -> Tensor:
    """Products of this rank's unit vectors with those of all ranks."""
    # in half precision, close embeddings would have equal scores
    with torch.autocast(own.device.type, enabled=False):
        return own @ gather_rows(others, counts).T


def _detached_unit(vectors: Tensor) -> Tensor:
    """L2-normalised vectors without gradient, at least in float32."""
    return unit_vectors(vectors.detach().to(scoring_dtype(vectors)))


def _columns_of_parts(scores: Tensor, num_parts: int, counts: list[int]) -> list[Tensor]:
    """Splits scores by part of the texts; gathered columns are ordered by rank, then by part."""
    pieces = scores.split([count for count in counts for _ in range(num_parts)], dim=1)
    if len(counts) == 1:
        return list(pieces)  # `cat` would copy
    return [torch.cat(pieces[part::num_parts], dim=1) for part in range(num_parts)]
