"""Scores of a gallery's images with texts that were made from its captions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.report_card.curves import Outcome
from ascl_lightning.evaluation.side_by_side import two_stage_of
from ascl_lightning.metrics.gallery import Gallery, Items

CardScore = Literal["independent", "local", "global", "fused", "two_stage"]


EncodeTexts = Callable[[Sequence[str]], Items]
"""Encodes distinct texts as the gallery's captions were; the items are numbered as the texts."""


class VariantScores:
    """Ranks with one text in the place of each caption, by several scores.

    A text that is one of the captions is not encoded and scored again: it has the very scores of that caption, and an
    operation that changes nothing changes no bit. A text that comes more than once is encoded and scored once.

    Args:
        gallery: Images with all captions of the split.
        numbers: The captions that texts are made of, by their numbers in the gallery, (M,).
        captions: What they say, M of them.
        encode: For all other texts.
        scores: Which scores: those of `Gallery.matrices`, and `two_stage`.

    Raises:
        UserError: If the model does not have one of the scores.
    """

    def __init__(
        self,
        gallery: Gallery,
        numbers: Int[Tensor, " M"],
        captions: Sequence[str],
        encode: EncodeTexts,
        scores: Sequence[CardScore],
    ) -> None:
        self._gallery = gallery
        self._captions = captions
        self._encode = encode
        self._scores = scores
        self._owner = gallery.image_of_text[numbers]
        matrices = gallery.matrices()
        # where the embeddings' product is the score that the model ranks by, it goes by that name alone
        self._names = {score: score if score in matrices else "fused" for score in ("independent",)}
        self._names |= {score: score for score in matrices}
        missing = [score for score in scores if score not in (*self._names, "two_stage")]
        if missing:
            raise UserError(
                f"the model has no score {missing[0]!r}; it has {', '.join((*self._names, 'two_stage'))}: "
                f"set --report_card.scores to some of them"
            )
        columns = numbers.cpu()
        self._matrices = {name: matrix[:, columns] for name, matrix in matrices.items()}
        self._embeds = gallery.texts.embeds[numbers]
        self._places = {text: place for place, text in reversed(list(enumerate(captions)))}

    def unchanged(self) -> dict[str, Outcome]:
        """Outcome of each score for the captions as they are."""
        return self._outcomes(self._matrices, self._embeds)

    def changed(self, texts: Sequence[str]) -> dict[str, Outcome]:
        """Outcome of each score with these texts, one for each caption."""
        fresh = list(dict.fromkeys(text for text in texts if text not in self._places))
        if not fresh:
            matrices, embeds = self._matrices, self._embeds
        else:
            matrices, embeds = self._with_fresh(fresh)
        sources = self._places | {text: len(self._captions) + place for place, text in enumerate(fresh)}
        chosen = [
            place if text == caption else sources[text]
            for place, (text, caption) in enumerate(zip(texts, self._captions, strict=True))
        ]
        rows = torch.tensor(chosen)
        return self._outcomes(
            {name: matrix[:, rows] for name, matrix in matrices.items()}, embeds[rows.to(embeds.device)]
        )

    def _with_fresh(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Scores and embeddings of the captions, then of texts that are none of them."""
        items = self._encode(texts)
        nobodys = torch.zeros(len(texts), dtype=torch.long, device=self._owner.device)
        made = self._gallery.with_texts(items, nobodys)
        if self._names["independent"] != "fused" and set(self._scores) == {"independent"}:
            matrices: Mapping[str, Tensor] = {"independent": (self._gallery.images.embeds @ items.embeds.T).cpu()}
        else:
            matrices = made.matrices()
        joined = {name: torch.cat([self._matrices[name], matrix], 1) for name, matrix in matrices.items()}
        return joined, torch.cat([self._embeds, items.embeds])

    def _outcomes(self, matrices: Mapping[str, Tensor], embeds: Float[Tensor, "M D"]) -> dict[str, Outcome]:
        owner = self._owner.cpu()
        outcomes: dict[str, Outcome] = {}
        for score in self._scores:
            outcome = Outcome.of(matrices["fused" if score == "two_stage" else self._names[score]], owner)
            if score == "two_stage":
                images = self._gallery.images.embeds.cpu()
                ranks = two_stage_of(matrices["fused"], images, embeds.cpu(), owner)
                outcome = Outcome(ranks[0].numpy(), ranks[1].numpy(), outcome.own_scores)
            outcomes[score] = outcome
        return outcomes
