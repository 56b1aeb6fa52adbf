"""Example queries for the HTML report, with their results and attention."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ascl_lightning.data.batch import ImageSpec, PixelSpec
from ascl_lightning.data.images import to_square
from ascl_lightning.data.text import Tokenizer, clean_caption
from ascl_lightning.data.views import SplitView
from ascl_lightning.evaluation.examples import Found, SearchResult, choose_queries, find
from ascl_lightning.evaluation.page.pictures import original
from ascl_lightning.evaluation.run_files import WORST
from ascl_lightning.evaluation.word_attention import word_attention
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.metrics.query_results import Direction
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.grounding import grid_side, ground

_PAIRS = 2


@dataclass(frozen=True)
class _Pair:
    """An image and a text, by number, whose attention is shown."""

    direction: Direction
    image: int
    text: int
    found: Found


class ShownQueries:
    """Collects example queries and their images.

    Args:
        gallery: The encoded split.
        view: The split.
        similarity: Scores that the model ranks by, on the CPU, (N, M).
    """

    def __init__(self, gallery: Gallery, view: SplitView, similarity: Float[Tensor, "N M"]) -> None:
        self.pictures: dict[str, Image.Image] = {}
        """Images by their path in the run's folder."""
        self._gallery, self._view, self._similarity = gallery, view, similarity
        self._captions = [caption for captions in view.split.captions for caption in captions]
        self._image_of_text = gallery.image_of_text.cpu()
        self._image_rows, self._text_rows = gallery.images.ids.tolist(), gallery.texts.ids.tolist()
        self._findings: dict[Direction, dict[int, SearchResult]] = {}

    def examples(self, direction: Direction, ranks: Tensor, slowest: Iterable[int]) -> list[dict[str, Any]]:
        """Example queries of one direction with their best results.

        Args:
            direction: Direction of the search.
            ranks: Rank of each query.
            slowest: Numbers of the slowest queries.
        """
        query, candidate = self._image, self._text
        if direction == "text_to_image":
            query, candidate = candidate, query

        def result(found: Found) -> dict[str, Any]:
            return {**candidate(found.number), "score": found.score, "correct": found.correct}

        chosen = choose_queries(ranks, slowest)
        self._findings[direction] = {number: self._find(direction, number) for number in chosen}
        return [
            {
                **{"query": query(number), "rank": int(ranks[number]), "why": chosen[number]},
                **{"results": [result(found) for found in of.results], "truth": result(of.truth)},
            }
            for number, of in self._findings[direction].items()
        ]

    def worst(self, direction: Direction, ranks: Tensor) -> list[dict[str, Any]]:
        """The worst queries with their caption, for images the first caption.

        Args:
            direction: Direction of the search.
            ranks: Rank of each query; 0 for items that are not queries.
        """
        worst = (-ranks).argsort(stable=True)[:WORST]
        return [{"query": query, "caption": self._said(direction, query)} for query in worst[ranks[worst] > 0].tolist()]

    def attention(self, similarity: FusedSimilarity, tokenizer: Tokenizer) -> dict[str, Any]:
        """Attention of some example pairs: first results, and for wrong ones also the true candidate.

        Args:
            similarity: Similarity of the model.
            tokenizer: Tokenizer of the text tower.
        """
        pairs = self._pairs()
        if not (similarity.uses_words and pairs):
            return {"grid": None, "pairs": [], "reason": "the score does not use single words"}
        device = self._gallery.image_of_text.device
        images = self._gallery.images.select(torch.tensor([pair.image for pair in pairs], device=device))
        texts = self._gallery.texts.select(torch.tensor([pair.text for pair in pairs], device=device))
        read = [clean_caption(self._captions[self._text_rows[pair.text]]) for pair in pairs]
        grounding, positions = ground(similarity, images, texts), tokenizer.word_positions(read)
        attention = word_attention(grounding, images.mask, texts.mask, positions.to(device), read)
        shown = [
            {
                **{"direction": pair.direction, "score": pair.found.score, "correct": pair.found.correct},
                **{"image": self._fed_image(pair.image), "text": self._text(pair.text), **asdict(of_pair)},
            }
            for pair, of_pair in zip(pairs, attention, strict=True)
        ]
        # tokens of crops lie on no grid
        side = None if self._view.features.crops else grid_side(self._view.spec, images.mask.shape[1])
        return {"grid": side, "pairs": shown, "reason": None}

    def _said(self, direction: Direction, query: int) -> str:
        if direction == "text_to_image":
            return self._captions[self._text_rows[query]]
        return self._view.split.captions[self._image_rows[query]][0]

    def _find(self, direction: Direction, query: int) -> SearchResult:
        if direction == "image_to_text":
            return find(self._similarity[query], self._image_of_text == query)
        scores = self._similarity[:, query]
        return find(scores, torch.arange(len(scores)) == self._image_of_text[query])

    def _pairs(self) -> list[_Pair]:
        """Pairs of some right and wrong queries with the first result, for wrong ones also with the true one."""
        pairs = []
        for direction, findings in self._findings.items():
            for right in (True, False):
                alike = [(query, of) for query, of in findings.items() if of.results[0].correct is right]
                for query, of in alike[:_PAIRS]:
                    for found in (of.results[0],) if right else (of.results[0], of.truth):
                        numbers = (query, found.number) if direction == "image_to_text" else (found.number, query)
                        pairs.append(_Pair(direction, *numbers, found))
        return pairs

    def _text(self, number: int) -> dict[str, Any]:
        row = self._text_rows[number]
        image = self._image_rows[int(self._image_of_text[number])]
        return {"row": row, "image_id": self._view.split.image_ids[image], "caption": self._captions[row]}

    def _image(self, number: int) -> dict[str, Any]:
        row = self._image_rows[number]
        return self._pictured(row, f"pictures/{row}.webp", lambda picture: picture)

    def _fed_image(self, number: int) -> dict[str, Any]:
        """The image as fed to the tower, over which the token grid is drawn."""
        row, spec = self._image_rows[number], self._view.spec
        return self._pictured(row, f"pictures/{row}-fed.webp", lambda picture: _as_fed(picture, spec))

    def _pictured(self, row: int, path: str, change: Callable[[Image.Image], Image.Image]) -> dict[str, Any]:
        if path not in self.pictures and (picture := original(self._view, row)) is not None:
            self.pictures[path] = change(picture)
        found = path if path in self.pictures else None
        return {"row": row, "image_id": self._view.split.image_ids[row], "picture": found}


def _as_fed(picture: Image.Image, spec: ImageSpec) -> Image.Image:
    if not isinstance(spec, PixelSpec):
        return picture
    return Image.fromarray(to_square(picture, spec).transpose(1, 2, 0))
