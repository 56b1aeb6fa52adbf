"""A query as a weighted sum of texts and images, and its scores in both stages of a search."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ascl_lightning.errors import UserError
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.search.encoded import Encoded

LIKED, DISLIKED = 0.75, 0.15
"""Weights of the mean liked and disliked item, if the query has weight 1 (Rocchio 1971; Manning, Raghavan and Schuetze,
Introduction to Information Retrieval, section 9.1.1)."""


@dataclass(frozen=True)
class Term:
    """One encoded text or image of a query, and its weight."""

    weight: float
    item: Encoded


@dataclass(frozen=True)
class Query:
    """A sum of terms. Its score with an item is the weighted sum of the terms' scores.

    Args:
        terms: At least one.
    """

    terms: Sequence[Term]

    @classmethod
    def of(
        cls,
        text: Encoded | None,
        image: Encoded | None,
        text_weight: float,
        liked: Sequence[Encoded],
        disliked: Sequence[Encoded],
    ) -> "Query":
        """Joins the parts of a query.

        Args:
            text: A text.
            image: An image. With a text, both are weighted.
            text_weight: Weight of the text beside an image, in [0, 1].
            liked: Images like which the hits should be.
            disliked: Images and texts unlike which they should be.

        Raises:
            UserError: If there is neither a text, nor an image, nor a liked item, or the weight is outside [0, 1].
        """
        if not 0 <= text_weight <= 1:
            raise UserError(f"text_weight is {text_weight}: give a number from 0 (only the image) to 1 (only the text)")
        weights = (text_weight, 1 - text_weight) if text is not None and image is not None else (1.0, 1.0)
        terms = [Term(weight, item) for weight, item in zip(weights, (text, image), strict=True) if item is not None]
        liking = LIKED if terms else 1.0
        terms += [Term(liking / len(liked), item) for item in liked]
        if not terms:
            raise UserError("there is nothing to search for: give a text, an image or pictures to be like")
        return cls([*terms, *(Term(-DISLIKED / len(disliked), item) for item in disliked)])

    @property
    def vector(self) -> Float[Tensor, " D"]:
        """Weighted sum of the embeddings; its dot product with an item's is the first-stage score."""
        return torch.stack([term.weight * term.item.embeds[0] for term in self.terms]).sum(0)

    @torch.no_grad()
    def scores(
        self, similarity: FusedSimilarity, items: Encoded, device: torch.device
    ) -> dict[str, Float[Tensor, " C"]]:
        """Scores of images by level.

        A text and an image have the score of each level, and two images the cosine of their embeddings in all levels.

        Args:
            similarity: Similarity of the model that encoded query and images.
            items: The candidates.
            device: Device of the computation.

        Returns:
            `independent`, the first-stage score; the levels of the fused score; and `fused`, by which hits are ranked.
        """
        levels = similarity.levels()
        items = items.to(device)
        names = dict.fromkeys(["independent", *levels, "fused"])
        sums = {name: torch.zeros(len(items), device=device) for name in names}
        for term in self.terms:
            item = term.item.to(device)
            cosines = items.embeds @ item.embeds[0]
            of_levels = dict.fromkeys(names, cosines)
            if item.kind == "texts":
                for name, (_, score) in levels.items():
                    if name != "independent":
                        of_levels[name] = score(items.features, item.features)[:, 0]
                parts = [weight * of_levels[name] for name, (weight, _) in levels.items()]
                of_levels["fused"] = torch.stack(parts).sum(0)
            for name, values in of_levels.items():
                sums[name] += term.weight * values
        return {name: values.cpu() for name, values in sums.items()}
