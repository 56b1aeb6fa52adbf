"""Scores of a gallery's images with variants of its captions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.data.stored_features import FeatureTable
from ascl_lightning.data.text import Tokenizer
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.report_card.curves import Outcome
from ascl_lightning.evaluation.side_by_side import two_stage_of
from ascl_lightning.metrics.choices import blind_scores
from ascl_lightning.metrics.gallery import Gallery, Items
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.training.extraction import encoded_by_length

CardScore = Literal["independent", "local", "global", "fused", "two_stage"]

EncodeTexts = Callable[[Sequence[str]], Items]
"""Encodes distinct texts like the gallery's captions; items have the numbers of the texts."""
_TOKENIZED_TOGETHER = 4096


class VariantScores:
    """Ranks by several scores, with one text in place of each caption.

    A text that equals one of the captions reuses its scores, so an operation without effect gives identical results.
    Each distinct text is encoded and scored once.

    Args:
        gallery: Images with all captions of the split.
        numbers: Numbers of the captions to replace in the gallery, (M,).
        captions: The texts of these captions, M of them.
        encode: Encodes all other texts.
        scores: Scores to compute: those of `Gallery.matrices`, and `two_stage`.

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
        # if the model ranks by the product of embeddings, that matrix is only named `fused`
        self._names = {score: score if score in matrices else "fused" for score in ("independent",)}
        self._names |= {score: score for score in matrices}
        missing = [score for score in scores if score not in (*self._names, "two_stage")]
        if missing:
            raise UserError(
                f"the model has no score {missing[0]!r}: set --report_card.scores to some of "
                f"{', '.join((*self._names, 'two_stage'))}"
            )
        columns = numbers.cpu()
        self._matrices = {name: matrix[:, columns] for name, matrix in matrices.items()}
        self._embeds = gallery.texts.embeds[numbers]
        self._places = {text: place for place, text in reversed(list(enumerate(captions)))}

    def unchanged(self) -> dict[str, Outcome]:
        """Outcome of each score with the unchanged captions."""
        return self._outcomes(self._matrices, self._embeds)

    def changed(self, texts: Sequence[str]) -> dict[str, Outcome]:
        """Outcome of each score with the given texts, one per caption."""
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
        """Scores and embeddings of the captions followed by other texts."""
        items = self._encode(texts)
        owners = torch.zeros(len(texts), dtype=torch.long, device=self._owner.device)
        made = self._gallery.with_texts(items, owners)
        if self._names["independent"] != "fused" and set(self._scores) == {"independent"}:
            matrices: Mapping[str, Tensor] = {"independent": (self._gallery.images.embeds @ items.embeds.T).cpu()}
        else:
            matrices = made.matrices()
        joined = {name: torch.cat([self._matrices[name], matrix], 1) for name, matrix in matrices.items()}
        return joined, torch.cat([self._embeds, items.embeds])

    def _outcomes(self, matrices: Mapping[str, Tensor], embeds: Float[Tensor, "M D"]) -> dict[str, Outcome]:
        owner, images = self._owner.cpu(), self._gallery.images.embeds
        has_others = len(images) > 1
        blind = blind_scores(images, self._owner[:, None], embeds).cpu().numpy() if has_others else None
        outcomes: dict[str, Outcome] = {}
        for score in self._scores:
            outcome = Outcome.of(matrices["fused" if score == "two_stage" else self._names[score]], owner, blind)
            if score == "two_stage":
                ranks = two_stage_of(matrices["fused"], images.cpu(), embeds.cpu(), owner)
                outcome = replace(outcome, image_ranks=ranks[0].numpy(), text_ranks=ranks[1].numpy())
            outcomes[score] = outcome
        return outcomes


class TextItems:
    """Encodes texts as an evaluation encodes its captions.

    Args:
        model: The model.
        tokenizer: Tokenizer of its text tower.
        device: Device of the model.
        stored: Stored features of the captions, if any. Features of other texts are rounded like these, so that equal
            texts do not differ by rounding.
    """

    def __init__(
        self, model: ImageTextModel, tokenizer: Tokenizer, device: torch.device, stored: FeatureTable | None
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._stored = stored

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Items:
        """Encodes at least one text; items have the numbers of the texts."""
        tokenized, _ = self._tokenizer(texts)
        order, encoded, embeds = [], [], []
        for rows, features in encoded_by_length(self._model.text_encoder.to_store, tokenized, self._device):
            items = self._model.encode_texts(features if self._stored is None else self._stored.as_stored(features))
            order.append(rows)
            encoded.append(items)
            embeds.append(self._model.similarity.text_embeds(items))
        return Items(
            ids=torch.cat(order),
            pooled=torch.cat([items.pooled for items in encoded]),
            lengths=torch.cat([items.mask.sum(dim=1) for items in encoded]),
            embeds=torch.cat(embeds),
            tokens=[items.tokens[items.mask] for items in encoded],
            device=self._device,
        )

    def num_truncated(self, texts: Sequence[str]) -> int:
        """Number of texts that the tokenizer truncates."""
        starts = range(0, len(texts), _TOKENIZED_TOGETHER)
        return sum(self._tokenizer(texts[start : start + _TOKENIZED_TOGETHER])[1] for start in starts)
