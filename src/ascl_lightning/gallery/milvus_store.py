"""The distributed store: embeddings in Milvus, standalone or cluster, and local tokens in shards beside."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.errors import UserError
from ascl_lightning.gallery.database import Mode
from ascl_lightning.gallery.item_shards import ItemShards, checked_ids
from ascl_lightning.gallery.store import Neighbours, no_neighbours
from ascl_lightning.search.encoded import Encoded

_ID, _EMBEDDING = "id", "embedding"
_BATCH = 1024
"""Items or queries in a request, of which Milvus limits the bytes."""
_MAX_K = 16384
"""Milvus' own limit."""


class MilvusStore(ItemShards):
    """Embeddings in a collection of a Milvus server, and also, with local tokens, in a folder. A `VectorStore`.

    The collection gets a flat index, which searches exactly. An index that is built with Milvus' own tools in its place
    is used as it is. If a write fails half-way, the folder may be ahead of the collection: repeat the call.

    Args:
        uri: Address of the server, such as `http://localhost:19530`, or a file `*.db` for Milvus Lite.
        collection: Name of the collection; created when the first items are written.
        folder: Folder of the shards, on a file system that all readers see.
        mode: Whether to write, which one process may do at a time, or only to read.

    Raises:
        UserError: If pymilvus is not installed, the server is not reached, another process writes the folder, or it
            cannot be read or written.
    """

    def __init__(self, uri: str, collection: str, folder: Path, mode: Mode = "read") -> None:
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise UserError("galleries in Milvus need pymilvus: pip install 'ascl-lightning[milvus]'") from error
        # it logs the traceback of every error that it raises
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        # an address may contain a password
        self._shown_uri = uri.rpartition("@")[2]
        self._collection = collection
        with self._milvus_errors():
            self._client = MilvusClient(uri)
        try:
            super().__init__(folder, mode)
        except BaseException:
            self._client.close()
            raise

    def upsert(self, ids: Sequence[int], items: Encoded) -> None:
        """See `VectorStore.upsert`."""
        self._require_writer()
        numbers = checked_ids(ids, len(items)).tolist()
        if not numbers:
            return
        with self._guard, self._milvus_errors():
            is_new = self._encoding() is None
            exists = self._client.has_collection(self._collection)
            if is_new and exists:
                raise UserError(
                    f"Milvus at {self._shown_uri} has a collection '{self._collection}' of another gallery: "
                    "name another collection, or drop this one"
                )
            # the folder first, so that it has all that a search finds
            super().upsert(ids, items)
            if not exists:
                self._create_collection(items.shape[1])
            embeds = items.embeds.detach().half().float().cpu().numpy()
            for start in range(0, len(numbers), _BATCH):
                rows = zip(numbers[start : start + _BATCH], embeds[start : start + _BATCH], strict=True)
                self._client.upsert(self._collection, [{_ID: id_, _EMBEDDING: row} for id_, row in rows])

    def delete(self, ids: Sequence[int]) -> None:
        """See `VectorStore.delete`."""
        self._require_writer()
        with self._guard, self._milvus_errors():
            if len(ids) and self._client.has_collection(self._collection):
                self._client.delete(self._collection, ids=[int(id_) for id_ in ids])
            super().delete(ids)

    def search(self, queries: Float[Tensor, "Q D"], k: int, allowed: Int[np.ndarray, " a"] | None = None) -> Neighbours:
        """See `VectorStore.search`.

        Raises:
            UserError: If `k` is larger than Milvus supports, or the server does not answer.
        """
        if k > _MAX_K:
            raise UserError(f"Milvus finds at most {_MAX_K} items, not {k}: ask for fewer")
        snapshot = self.snapshot()
        snapshot.require_searchable(queries, k)
        condition = ""
        if allowed is not None:
            allowed = allowed[snapshot.find(allowed)[1]]
            condition = f"{_ID} in {allowed.tolist()}"
        found = no_neighbours(len(queries), k)
        if not len(snapshot.ids if allowed is None else allowed):
            return found
        for start in range(0, len(queries), _BATCH):
            block = queries[start : start + _BATCH].detach().cpu().float().numpy()
            with self._milvus_errors():
                results = self._client.search(
                    self._collection,
                    block.tolist(),
                    filter=condition,
                    limit=k,
                    output_fields=[_ID],
                    consistency_level="Strong",
                )
            for row, hits in enumerate(results, start):
                best = sorted((-hit["distance"], hit[_ID]) for hit in hits)
                found.ids[row, : len(best)] = torch.tensor([id_ for _, id_ in best], dtype=torch.int64)
                found.scores[row, : len(best)] = torch.tensor([-score for score, _ in best])
        return found

    def close(self) -> None:
        """See `VectorStore.close`."""
        super().close()
        self._client.close()

    def _create_collection(self, width: int) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(_ID, DataType.INT64, is_primary=True)
        schema.add_field(_EMBEDDING, DataType.FLOAT_VECTOR, dim=width)
        index = self._client.prepare_index_params()
        index.add_index(_EMBEDDING, index_type="FLAT", metric_type="IP")
        self._client.create_collection(self._collection, schema=schema, index_params=index, consistency_level="Strong")

    @contextmanager
    def _milvus_errors(self) -> Iterator[None]:
        """Reports errors of the server, and of the way to it, in one line."""
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except MilvusException as error:
            reason = " ".join(str(error.message).split())[:300]
            raise UserError(
                f"Milvus at {self._shown_uri}, collection '{self._collection}': {reason}; check address and server"
            ) from error
