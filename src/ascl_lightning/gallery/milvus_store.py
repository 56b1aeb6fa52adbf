"""The distributed store: embeddings in Milvus, standalone or cluster, and local tokens in shards beside."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.errors import UserError
from ascl_lightning.gallery.database import Mode, database_errors
from ascl_lightning.gallery.item_shards import ItemShards, checked_ids
from ascl_lightning.gallery.shards import Encoding
from ascl_lightning.gallery.store import Neighbours, no_neighbours
from ascl_lightning.search.encoded import Encoded

_ID, _EMBEDDING = "id", "embedding"
_BATCH = 1024
"""Items or queries in a request, of which Milvus limits the bytes."""
_MAX_K = 16384
"""Milvus' own limit."""
_TOKEN = "MILVUS_TOKEN"
"""Environment variable with NAME:PASSWORD, or the token of a service."""
_SERVER = "check address and server"
_LITE = "check that milvus-lite is installed and that no other process has this file open"
"""What a user can do about errors."""
_PENDING = """
-- items of which the collection may have another state than the folder
CREATE TABLE IF NOT EXISTS pending (id INTEGER PRIMARY KEY)
"""


class MilvusStore(ItemShards):
    """Embeddings in a collection of a Milvus server, and also, with local tokens, in a folder. A `VectorStore`.

    The collection gets a flat index, which searches exactly. An index that is built with Milvus' own tools in its place
    is used as it is. The folder is written first, and notes which items the collection does not have yet. If a write
    fails half-way, the next writer completes it; it also fills a collection that has lost items.

    Args:
        uri: Address of the server, such as `http://localhost:19530`, or a file `*.db` for Milvus Lite. A server that
            asks for name and password gets those of the environment variable `MILVUS_TOKEN`, as `NAME:PASSWORD`.
        collection: Name of the collection; created when the first items are written.
        folder: Folder of the shards, on a file system that all readers see.
        mode: Whether to write, which one process may do at a time, or only to read.
        shared: Whether the collection may have items of other folders.

    Raises:
        UserError: If pymilvus is not installed, the server is not reached, the collection is that of other items,
            another process writes the folder, or it cannot be read or written.
    """

    def __init__(self, uri: str, collection: str, folder: Path, mode: Mode = "read", shared: bool = False) -> None:
        self._shared = shared
        self._shown = f"Milvus at {_shown(uri)}, collection '{collection}'"
        self._collection = collection
        self._client = _connect(uri)
        try:
            super().__init__(folder, mode)
            try:
                with _milvus_errors(self._shown):
                    self._load_collection()
                    if mode == "write":
                        self._mend()
            except BaseException:
                super().close()
                raise
        except BaseException:
            self._client.close()
            raise

    def upsert(self, ids: Sequence[int], items: Encoded) -> None:
        """See `VectorStore.upsert`."""
        self._require_writer()
        numbers = checked_ids(ids, len(items))
        if not len(numbers):
            return
        with self._guard, _milvus_errors(self._shown):
            exists = self._client.has_collection(self._collection)
            if exists and self._encoding() is None and not self._shared:
                raise self._foreign
            super().upsert(ids, items)
            if not exists:
                self._create_collection(Encoding.of(items))
            self._send(numbers, items.embeds.detach().half().float().cpu().numpy())
            self._settle(numbers)

    def delete(self, ids: Sequence[int]) -> None:
        """See `VectorStore.delete`."""
        self._require_writer()
        with self._guard, _milvus_errors(self._shown):
            super().delete(ids)
            numbers = np.asarray(ids, np.int64)
            if len(numbers) and self._client.has_collection(self._collection):
                self._client.delete(self._collection, ids=numbers.tolist())
            self._settle(numbers)

    def adopt(self, other: ItemShards) -> None:
        """See `ItemShards.adopt`. The other store is one of the same collection."""
        super().adopt(other)
        self._settle(other.ids())

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
            with _milvus_errors(self._shown):
                results = self._client.search(
                    self._collection,
                    block.tolist(),
                    filter=condition,
                    limit=k,
                    output_fields=[_ID],
                    consistency_level="Strong",
                )
            for row, hits in enumerate(results, start):
                # a writer may be about to write the others into the folder, or has just removed them
                known = snapshot.find([hit[_ID] for hit in hits])[1]
                best = sorted(
                    (-hit["distance"], hit[_ID]) for hit, is_known in zip(hits, known, strict=True) if is_known
                )
                found.ids[row, : len(best)] = torch.tensor([id_ for _, id_ in best], dtype=torch.int64)
                found.scores[row, : len(best)] = torch.tensor([-score for score, _ in best])
        return found

    def close(self) -> None:
        """See `VectorStore.close`."""
        super().close()
        self._client.close()

    def _remove(self, ids: Int[np.ndarray, " a"]) -> None:
        """Begins each change of items; in the same transaction it is noted that the collection has to follow."""
        super()._remove(ids)
        self._database.executemany("INSERT OR IGNORE INTO pending VALUES (?)", ((id_,) for id_ in ids.tolist()))

    def _settle(self, ids: Int[np.ndarray, " a"]) -> None:
        """Notes that the collection has the present state of some items."""
        with self._transaction():
            self._database.executemany("DELETE FROM pending WHERE id = ?", ((id_,) for id_ in ids.tolist()))

    def _prepare(self) -> None:
        super()._prepare()
        with database_errors(self._path, "write"):
            self._database.execute(_PENDING)

    def _mend(self) -> None:
        """Sends what the collection lacks, as after a write that failed half-way."""
        snapshot = self.snapshot()
        if snapshot.encoding is None:
            return
        with database_errors(self._path, "read"):
            rows = self._database.execute("SELECT id FROM pending ORDER BY id").fetchall()
        pending = np.array(rows, np.int64).reshape(-1)
        if not self._client.has_collection(self._collection):
            self._create_collection(snapshot.encoding)
            pending = np.union1d(pending, snapshot.ids)
        elif self._collection_size() < len(snapshot.ids):
            pending = np.union1d(pending, snapshot.ids)
        for start in range(0, len(pending), _BATCH):
            block = pending[start : start + _BATCH]
            places, found = snapshot.find(block)
            if found.any():
                self._send(block[found], snapshot.embeds(snapshot.slots[places[found]]).numpy())
            if not found.all():
                self._client.delete(self._collection, ids=block[~found].tolist())
            self._settle(block)

    def _send(self, ids: Int[np.ndarray, " a"], embeds: Float[np.ndarray, "a D"]) -> None:
        for start in range(0, len(ids), _BATCH):
            rows = zip(ids[start : start + _BATCH].tolist(), embeds[start : start + _BATCH], strict=True)
            self._client.upsert(self._collection, [{_ID: id_, _EMBEDDING: row} for id_, row in rows])

    def _collection_size(self) -> int:
        counted = self._client.query(self._collection, output_fields=["count(*)"], consistency_level="Strong")
        return int(counted[0]["count(*)"])

    def _load_collection(self) -> None:
        """Loads a collection of the width and the model of the items in the folder, if there is one, for searches."""
        encoding = self._encoding()
        if encoding is None or not self._client.has_collection(self._collection):
            return
        about = self._client.describe_collection(self._collection)
        widths = {field["name"]: field["params"].get("dim") for field in about["fields"]}
        if int(widths.get(_EMBEDDING) or 0) != encoding.width or about["description"] not in ("", encoding.model):
            raise self._foreign
        self._client.load_collection(self._collection)

    def _create_collection(self, encoding: Encoding) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False, description=encoding.model)
        schema.add_field(_ID, DataType.INT64, is_primary=True)
        schema.add_field(_EMBEDDING, DataType.FLOAT_VECTOR, dim=encoding.width)
        index = self._client.prepare_index_params()
        index.add_index(_EMBEDDING, index_type="FLAT", metric_type="IP")
        self._client.create_collection(self._collection, schema=schema, index_params=index, consistency_level="Strong")

    @property
    def _foreign(self) -> UserError:
        return UserError(
            f"{self._shown}: is of another gallery, or of other weights: name another collection, or drop this one"
        )


def drop_collections(uri: str, beginning: str) -> None:
    """Removes the collections of a server whose names begin with a text.

    Raises:
        UserError: If the server is not reached.
    """
    client = _connect(uri)
    try:
        with _milvus_errors(f"Milvus at {_shown(uri)}"):
            for name in client.list_collections():
                if name.startswith(beginning):
                    client.drop_collection(name)
    finally:
        client.close()


def _connect(uri: str) -> Any:
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise UserError("galleries in Milvus need pymilvus: pip install 'ascl-lightning[milvus]'") from error
    # they log the traceback of every error that they raise
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _milvus_errors(f"Milvus at {_shown(uri)}", _LITE if uri.endswith(".db") else _SERVER):
        return MilvusClient(uri, token=os.environ.get(_TOKEN, ""))


def _shown(uri: str) -> str:
    """The address without a password."""
    return uri.rpartition("@")[2]


@contextmanager
def _milvus_errors(place: str, remedy: str = _SERVER) -> Iterator[None]:
    """Reports errors of the server, and of the way to it, in one line."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        reason = " ".join(str(error.message).split())[:300]
        raise UserError(f"{place}: {reason}; {remedy}") from error
