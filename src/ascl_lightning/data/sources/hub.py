"""Data sets of the Hugging Face hub, and local folders in its formats: parquet, arrow, imagefolder."""

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from ascl_lightning.data.images import ImageBytes, ends, ends_of_part
from ascl_lightning.data.sources.base import MissingSplitError, Shard, Source, Split, Streamed
from ascl_lightning.data.sources.files import MAX_BYTES, name_inside
from ascl_lightning.data.sources.records import Record
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import require_regular

_STREAMED_PARTS = 64
_ROWS_TOGETHER = 16
_ZIPPED = re.compile(r"zip://(?P<member>[^:]+)::(?P<archive>.+)")


@dataclass(eq=False)
class HubDataset(Source):
    """Any data set that the library `datasets` loads; code from its repository is never run.

    Streamed splits are distributed to ranks and workers like the shards of `WebDataset`, not by
    `split_dataset_by_node`.

    Args:
        path: A folder relative to the root, laid out by `save_to_disk` or as on the hub; or the id of a data set there.
        name: Its configuration, if it has several.
        image: Column of pictures: an image feature, encoded bytes, or paths relative to the root.
        captions: Column of captions: a text or a list of texts.
        image_id: Column that names the image, to join the captions of rows with the same image; None takes each row as
            an image.
        splits: The data set's own names of splits, as in `{val: validation}`.
        streaming: Stream the training split without a copy on disk. Other splits are read whole.
        cache_dir: Folder of copies; None uses the library's own.
    """

    path: str
    name: str | None = None
    image: str = "image"
    captions: str = "caption"
    image_id: str | None = None
    splits: dict[str, str] | None = None
    streaming: bool = False
    cache_dir: str | None = None

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        dataset = self._undecoded(self._load(root, split, streaming=False))
        where = f"{self.path}, {split}"
        captions = [_captions(value, place, self.captions) for value, place in _texts(dataset, self.captions, where)]
        if not captions:
            raise UserError(f"{where}: holds no rows")
        images = _HubImages(dataset, self._pictures(root), where)
        if self.image_id is None:
            return Split([str(row) for row in range(len(captions))], captions, images)
        names = _texts(dataset, self.image_id, where)
        ids = [Record({self.image_id: value}, place).identifier(self.image_id) for value, place in names]
        return _joined(ids, captions, images)

    def shards(self, root: Path | None, split: str) -> Sequence[Shard] | None:
        """The shards of a streamed split; see `Source.shards`."""
        if not self.streaming:
            return None
        if self.image_id is not None:
            raise UserError("a streamed data set cannot join rows by image_id: remove image_id or streaming")
        dataset = self._undecoded(self._load(root, split, streaming=True))
        parts = dataset.num_shards
        return [
            HubShard(dataset.shard(parts, i), self._pictures(root), f"{self.path}, {split}, part {i}")
            for i in range(parts)
        ]

    def _pictures(self, root: Path | None) -> "_Pictures":
        return _Pictures(self.image, self.captions, root, self._folder(root), self.path, self.cache_dir)

    def _folder(self, root: Path | None) -> Path | None:
        folder = Path(self.path) if root is None else root / self.path
        return folder if folder.is_dir() else None

    def _load(self, root: Path | None, split: str, streaming: bool) -> Any:
        import datasets  # seconds of import, needed by no other source

        folder, theirs = self._folder(root), (self.splits or {}).get(split, split)
        try:
            if folder is not None and any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
                stored = datasets.load_from_disk(str(folder))
                dataset = stored[theirs] if isinstance(stored, datasets.DatasetDict) else stored
                return (
                    dataset.to_iterable_dataset(num_shards=min(_STREAMED_PARTS, len(dataset))) if streaming else dataset
                )
            return datasets.load_dataset(
                str(folder or self.path), self.name, split=theirs, streaming=streaming, cache_dir=self.cache_dir
            )
        except (KeyError, ValueError) as error:
            if isinstance(error, KeyError) or "split" in str(error):
                raise MissingSplitError(
                    f"{self.path}: there is no split '{theirs}' ({error}); "
                    f"say what it is called with the source's `splits`, as in {{val: validation}}"
                ) from error
            raise UserError(f"{folder or self.path}: cannot be loaded: {error}") from error
        except Exception as error:
            # the library's readers and the network raise almost anything
            place = (
                f"the folder {folder}" if folder else f"'{self.path}', which is no folder under the root, from the hub"
            )
            raise UserError(f"cannot load {place}: {_reason(error)}") from error

    def _undecoded(self, dataset: Any) -> Any:
        """The data set with encoded pictures, as `data/images.py` decodes them."""
        import datasets

        features = dataset.features or {}
        for column in (self.image, self.captions, *filter(None, [self.image_id])):
            if column not in features:
                raise UserError(f"{self.path}: there is no column '{column}'; it has: {', '.join(features)}")
        if isinstance(features[self.image], datasets.Image):
            return dataset.cast_column(self.image, datasets.Image(decode=False))
        return dataset


class HubShard(Shard):
    """A part of a streamed data set.

    Args:
        dataset: An `IterableDataset` with undecoded pictures.
        pictures: Reads pictures from its values.
        name: Name for messages.
    """

    def __init__(self, dataset: Any, pictures: "_Pictures", name: str) -> None:
        self.name = name
        self._dataset = dataset
        self._pictures = pictures

    def captions(self) -> Iterator[tuple[str, ...]]:
        """See `Shard.captions`."""
        column = self._pictures.captions
        with self._faults():
            for row, values in enumerate(_rows(self._dataset.select_columns([column]))):
                yield _captions(values[column], f"{self.name}, row {row}", column)

    def items(self, start: int) -> Iterator[Streamed]:
        """See `Shard.items`."""
        with self._faults():
            for row, values in enumerate(_rows(self._dataset.skip(start)), start=start):
                where = f"{self.name}, row {row}"
                captions = _captions(values[self._pictures.captions], where, self._pictures.captions)
                yield captions, self._pictures.of(values[self._pictures.image], where)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turns any error of the library's readers into a `UserError`."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.name}: cannot be read: {_reason(error)}") from error


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    """All rows of a stream.

    Plain iteration would return only a part of the rows in worker processes, but `StreamPlan` already distributes them.
    """
    for batch in dataset.iter(batch_size=_ROWS_TOGETHER):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


@dataclass(frozen=True)
class _Pictures:
    """Reads pictures from values of the image column.

    Args:
        image: The column of pictures.
        captions: The column of captions.
        root: `--data.root`, to which paths in a text column are relative.
        folder: The data set's own folder; None if it comes from the hub.
        repository: Its id on the hub.
        cache_dir: Folder of its copies, if not the library's own.
    """

    image: str
    captions: str
    root: Path | None
    folder: Path | None
    repository: str
    cache_dir: str | None

    def of(self, value: Any, where: str) -> Path | ImageBytes:
        """The picture of a value.

        Raises:
            UserError: If the value is no picture, or a path outside the data.
        """
        record = Record({self.image: value}, where)
        if isinstance(value, dict) and value.get("bytes") is not None:
            value = value["bytes"]
        if isinstance(value, bytes):
            return ImageBytes(value, where)
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return self._own_file(value["path"], record)
        if not isinstance(value, str) or self.root is None:
            record.fail(self.image, "holds no picture: neither bytes nor a path under --data.root")
        return self._inside(self.root / name_inside(self.root, record, self.image), [self.root], record)

    def _own_file(self, place: str, record: Record) -> Path | ImageBytes:
        """A file that the library found or downloaded; refuses paths outside the data, which a table may contain."""
        zipped = _ZIPPED.fullmatch(place)
        archive = place if zipped is None else zipped["archive"]
        remote = f"hf://datasets/{self.repository}@"
        if self.folder is None and archive.startswith(remote) and ".." not in archive.split("/"):
            return ImageBytes(self._fetched(archive, zipped and zipped["member"], record), place)
        if "://" in archive:
            record.fail(self.image, f"leads to {place}, outside of {self.folder or remote}; nothing is read there")
        path = self._inside((self.folder or Path()) / archive, self._own_folders(), record)
        return path if zipped is None else ImageBytes(self._fetched(str(path), zipped["member"], record), place)

    def _own_folders(self) -> list[Path]:
        if self.folder is not None:
            return [self.folder]
        from datasets import config
        from huggingface_hub import constants

        caches = [config.HF_DATASETS_CACHE, config.HF_CACHE_HOME, constants.HF_HUB_CACHE, self.cache_dir]
        return [Path(cache) for cache in caches if cache is not None]

    def _fetched(self, path: str, member: str | None, record: Record) -> bytes:
        """The bytes of a file on the hub, or of a member of an archive."""
        try:
            with _opened(path) if member is None else _archive(path, os.getpid()).open(member) as file:
                data: bytes = file.read(MAX_BYTES + 1)
        except Exception as error:
            # damaged archives and the network raise almost anything
            record.fail(self.image, f"cannot be read from {f'{member} in ' if member else ''}{path}: {_reason(error)}")
        if len(data) > MAX_BYTES:
            record.fail(self.image, f"has more than {MAX_BYTES:,} bytes")
        return data

    def _inside(self, path: Path, folders: list[Path], record: Record) -> Path:
        real = os.path.realpath(path)
        if not any(real.startswith(os.path.realpath(folder) + os.sep) for folder in folders):
            record.fail(self.image, f"leads to {path}, outside of {folders[0]}; nothing is read there")
        return path


class _HubImages(Sequence[Path | ImageBytes]):
    """Lazy pictures of a data set."""

    def __init__(self, dataset: Any, pictures: _Pictures, where: str) -> None:
        self._dataset = dataset.select_columns([pictures.image])
        self._columns = self._dataset.with_format("arrow")
        self._pictures = pictures
        self._where = where

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> Path | ImageBytes:  # type: ignore[override]  # slices are not needed
        """One picture.

        Raises:
            UserError: As `_Pictures.of`.
        """
        return self._pictures.of(self._dataset[row][self._pictures.image], f"{self._where}, row {row}")

    def ends(self, row: int) -> bytes:
        """See `ends_of_picture`; of a table on disk, only the needed pages are read."""
        value = self._columns[row].column(0)[0]
        if isinstance(value, pa.StructScalar):
            value = value.get("bytes")
        if not isinstance(value, pa.BinaryScalar) or value.as_buffer() is None:
            return ends(self[row])
        buffer = value.as_buffer()
        return ends_of_part(pa.BufferReader(buffer), 0, buffer.size)


def _opened(path: str) -> Any:
    """Opens a local file or one on the hub, a protocol that `datasets` registers with fsspec."""
    import fsspec

    if Path(path).exists():
        require_regular(Path(path))
    return fsspec.open(path).open()


@lru_cache(maxsize=8)
def _archive(path: str, process: int) -> zipfile.ZipFile:  # noqa: ARG001 — a part of the key
    """An archive, opened once per process: after a fork, processes would share the position in the file."""
    return zipfile.ZipFile(_opened(path))


def _reason(error: Exception) -> str:
    """The cause of an error of the library, whose own message is often empty."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


def _texts(dataset: Any, column: str, where: str) -> Iterator[tuple[Any, str]]:
    """The values of a column, and the place of each for messages.

    Raises:
        UserError: If one is not UTF-8.
    """
    row = 0
    try:
        for values in dataset.with_format(None).select_columns([column]):
            yield values[column], f"{where}, row {row}"
            row += 1
    except UnicodeDecodeError as error:
        raise UserError(f"{where}, row {row}: field '{column}' is not UTF-8 text ({error.reason})") from error


def _captions(value: Any, where: str, column: str) -> tuple[str, ...]:
    record = Record({column: value}, where)
    return record.caption(column) if isinstance(value, str) else record.captions(column)


def _joined(ids: list[str], captions: list[tuple[str, ...]], images: Sequence[Any]) -> Split:
    """Joins the rows of each image, with the picture of the first."""
    rows: dict[str, list[int]] = {}
    for row, image_id in enumerate(ids):
        rows.setdefault(image_id, []).append(row)
    by_image = Split([str(row) for row in range(len(ids))], captions, images).select([of[0] for of in rows.values()])
    return Split(list(rows), [sum((captions[row] for row in of), ()) for of in rows.values()], by_image.images)
