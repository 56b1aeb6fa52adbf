"""`Retriever` as a model of MTEB, whose image-text tasks (MIEB) can then score it.

The interfaces are `mteb.models.abs_encoder.AbsEncoder` and `mteb.models.models_protocols.SearchProtocol`. Source of
MIEB: Xiao et al., "MIEB: Massive Image Embedding Benchmark", arXiv 2504.10471.
"""

from typing import Any, cast

import torch
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.models.search_wrappers import SearchEncoderWrapper
from torch import Tensor

from ascl_lightning.api import Hit, Retriever
from ascl_lightning.search.encoded import Encoded

_BATCH_SIZE = 64


class MtebEncoder(AbsEncoder):
    """Scores all tasks of images and texts by embeddings.

    Args:
        retriever: The model.
        name: Name in results, `organisation/model`.

    Example:
        >>> import mteb  # doctest: +SKIP
        >>> model = MtebEncoder(Retriever.from_pretrained("weights"), "me/kites")  # doctest: +SKIP
        >>> mteb.evaluate(model, mteb.get_tasks(tasks=["Flickr30kT2IRetrieval"]))  # doctest: +SKIP
    """

    def __init__(self, retriever: Retriever, name: str = "ascl-lightning/model") -> None:
        self.model = retriever
        self.mteb_model_meta = _meta(retriever, name)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Embeddings of the items of a `DataLoader`; items with a picture and a text get the sum of both.

        Args:
            inputs: Batches with lists `image` (Pillow images), `text`, or both.
            task_metadata: Not used, as the following.
            hf_split: Not used.
            hf_subset: Not used.
            prompt_type: Not used; there are no prompts.
            **kwargs: Options of `mteb.evaluate`, not used; the loader has the batch size.

        Returns:
            Embeddings, (N, D).
        """
        return torch.cat([torch.stack([part.embeds for part in self._encoded(batch)]).sum(0) for batch in inputs])

    def _encoded(self, batch: Any) -> list[Encoded]:
        found = []
        if "image" in batch:
            found.append(self.model.encode_images(batch["image"]))
        if "text" in batch:
            found.append(self.model.encode_texts(batch["text"]))
        return found


class MtebTwoStage(MtebEncoder):
    """Ranks in retrieval tasks between images and texts as `Retriever.rank` does, in other tasks by embeddings.

    A query finds at most `candidates` items: recall at a larger number is that at `candidates`.

    Args:
        retriever: The model.
        name: Name in results, `organisation/model`.
        candidates: Length of the shortlist, which the fused score sorts.
    """

    def __init__(self, retriever: Retriever, name: str = "ascl-lightning/two-stage", candidates: int = 100) -> None:
        super().__init__(retriever, name)
        self.candidates = candidates
        self._corpus: Any = None

    def index(self, corpus: Any, **options: Any) -> None:
        """Notes the corpus of a task, which `search` encodes."""
        self._corpus = corpus

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        task_metadata: Any,
        encode_kwargs: Any,
        top_ranked: Any = None,
        num_proc: int | None = None,
        **options: Any,
    ) -> dict[str, dict[str, float]]:
        """Searches the corpus.

        Args:
            queries: Dataset with `id`, and `text` or `image`.
            top_k: Most items per query.
            task_metadata: The task.
            encode_kwargs: Options of `mteb.evaluate`, such as `batch_size`.
            top_ranked: For tasks of re-ranking, the ids of the items among which each query searches.
            num_proc: Processes that load data.
            **options: Further arguments of the interface.

        Returns:
            Score of each item that a query finds, by the ids of query and item.
        """
        given = {"task_metadata": task_metadata, "encode_kwargs": encode_kwargs, "num_proc": num_proc, **options}
        if {_kind(queries), _kind(self._corpus)} != {"image", "text"}:
            search = SearchEncoderWrapper(MtebEncoder(self.model))
            search.index(self._corpus, **given)
            return dict(search.search(queries, top_k=top_k, top_ranked=top_ranked, **given))
        size = encode_kwargs.get("batch_size", _BATCH_SIZE)
        asked, items = self._encoded_rows(queries, size), self._encoded_rows(self._corpus, size)
        asked_ids, ids = list(queries["id"]), list(self._corpus["id"])
        if top_ranked is None:
            return dict(zip(asked_ids, self._ranked(asked, items, ids, top_k), strict=True))
        places = {item: place for place, item in enumerate(ids)}
        found = {}
        for row, query in enumerate(asked_ids):
            if among := list(top_ranked.get(query, ())):
                listed = items[[places[item] for item in among]]
                (found[query],) = self._ranked(asked[[row]], listed, among, top_k)
        return found

    def _ranked(self, asked: Encoded, items: Encoded, ids: list[str], top_k: int) -> list[dict[str, float]]:
        ranked = self.model.rank(asked, items, min(top_k, self.candidates), candidates=self.candidates)
        return [{ids[hit.index]: hit.score for hit in hits} for hits in cast(list[list[Hit]], ranked)]

    def _encoded_rows(self, rows: Any, size: int) -> Encoded:
        batches = (rows[start : start + size] for start in range(0, len(rows), size))
        return Encoded.join([part for batch in batches for part in self._encoded(batch)])


def _kind(rows: Any) -> str | None:
    """The only kind of content, `image` or `text`; None if a row is made of several columns."""
    found = {"image", "text", "title", "instruction"} & set(rows.column_names)
    return found.pop() if len(found) == 1 else None


def _meta(retriever: Retriever, name: str) -> ModelMeta:
    return ModelMeta(
        loader=None,
        name=name,
        revision=retriever.fingerprint[:40],
        release_date=None,
        languages=None,
        n_parameters=sum(value.numel() for value in retriever.model.parameters()),
        memory_usage_mb=None,
        max_tokens=retriever.model.text_encoder.spec.max_length,
        embed_dim=retriever.embed_dim,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
        modalities=["image", "text"],
    )
