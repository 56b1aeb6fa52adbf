"""Tar archives with members NAME.jpg and NAME.txt (the WebDataset format; Aizman et al., 2019).

Members are read only as pictures and text; links are skipped, and nothing is unpickled or run.
"""

import re
import tarfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from itertools import islice, product
from pathlib import Path
from typing import Any

from ascl_lightning.data.images import ImageBytes, ends_of_part
from ascl_lightning.data.sources.base import MissingSplitError, Shard, Source, Split, Streamed
from ascl_lightning.data.sources.files import MAX_BYTES, data_folder, files_named, parse_json, register_image_id
from ascl_lightning.data.sources.records import Record
from ascl_lightning.errors import UserError

# tarfile, not the libraries webdataset (tried: 1.0.2) or datasets (tried: 5.2.0): both read an archive that was
# truncated between two samples without an error; datasets refuses images without captions; webdataset runs programs
# named by an address (`pipe:`).
_PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})
_ATTEMPTS = 3
_TIMEOUT = 60


class WebDataset(Source):
    """Shards of images with captions, streamed or read in random order through an index of their members.

    Unlike the webdataset library (`split_by_node`, `split_by_worker`), `data/streaming.py` does not assign whole shards
    to ranks and workers, which would give them different numbers of images, or none. Each gets a range of the epoch's
    order of equal length, which may begin inside a shard, so every image comes once per epoch on any number of ranks
    and workers, and each worker opens at most one extra shard.

    Args:
        shards: The archives of each split: a path relative to the root or an http(s) address, with a range in braces
            (`train-{0000..0127}.tar`) or, for paths, a glob pattern (`train-*.tar`).
        captions: Extension of the members with captions: text with one caption per line (empty lines are skipped), or
            `json` with the field `captions` or `caption`.
        streaming: Stream the training shards, which remote archives require, and shuffle within a window. Otherwise the
            archives are indexed and read in random order. Other splits are never streamed and must be local.

    Raises:
        UserError: If an address is neither a path nor http(s); `pipe:` is not supported.
    """

    def __init__(self, shards: dict[str, str], captions: str = "txt", streaming: bool = False) -> None:
        for name in shards.values():
            if ":" in name.split("/")[0] and not _is_remote(name):
                raise UserError(f"shards: {name}: give a path or an http(s) address; nothing else is opened")
        self.patterns = shards
        self.captions = captions.lstrip(".").lower()
        self.streaming = streaming

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        shards = self._shards(root, split)
        places: dict[str, str] = {}
        captions: list[tuple[str, ...]] = []
        members: list[tuple[int, int, int]] = []
        for number, shard in enumerate(shards):
            if not isinstance(shard.location, Path):
                raise UserError(
                    f"{shard.name}: archives on a network are streamed, for training alone (streaming: true); "
                    f"download the shards of '{split}'"
                )
            for sample in shard.samples():
                record = Record({}, f"{shard.name}, {sample.key}")
                register_image_id(places, sample.key, record, "__key__")
                captions.append(sample.captions)
                members.append((number, *sample.place))
        if not places:
            raise UserError(f"{shards[0].name}: holds no pictures ({', '.join(sorted(_PICTURES))})")
        return Split(list(places), captions, _TarImages([shard.name for shard in shards], members))

    def shards(self, root: Path | None, split: str) -> Sequence[Shard] | None:
        """The archives of a streamed split; see `Source.shards`."""
        return self._shards(root, split) if self.streaming else None

    def _shards(self, root: Path | None, split: str) -> "list[TarShard]":
        if split not in self.patterns:
            raise MissingSplitError(
                f"shards: there is no split '{split}'; they are given for: {', '.join(self.patterns)}"
            )
        pattern = self.patterns[split]
        if _is_remote(pattern):
            return [TarShard(address, self.captions) for address in expand_braces(pattern)]
        folder = data_folder(root, pattern)
        paths = [path for name in expand_braces(pattern) for path in files_named(folder, name)]
        if not paths:
            raise UserError(f"{folder}: there are no shards {pattern}; check --data.root and the source's `shards`")
        return [TarShard(path, self.captions) for path in paths]


def expand_braces(pattern: str) -> list[str]:
    """Expands ranges and lists in braces.

    Examples:
        >>> expand_braces("a-{08..10}-{x,y}.tar")
        ['a-08-x.tar', 'a-08-y.tar', 'a-09-x.tar', 'a-09-y.tar', 'a-10-x.tar', 'a-10-y.tar']
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*choices)]


def _choices(part: str) -> list[str]:
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", part)
    if bounds is None:
        return part.split(",")
    first, last = bounds.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _is_remote(name: str) -> bool:
    return name.startswith(("http://", "https://"))


@dataclass(frozen=True)
class _Sample:
    key: str
    captions: tuple[str, ...] = ()
    picture: ImageBytes | None = None
    place: tuple[int, int] = (0, 0)
    """Offset and size of the picture in the archive; size 0 without a picture."""


class _Member(tarfile.TarInfo):
    """Raises an error for truncated or damaged archives, which tarfile treats as the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Member":
        """Read a header."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"its end mark is missing ({error}); it was cut short or damaged") from error


class TarShard(Shard):
    """One archive.

    Args:
        location: A path or an http(s) address.
        captions: Extension of the members with captions.
    """

    def __init__(self, location: Path | str, captions: str) -> None:
        self.location = location
        self.name = str(location)
        self._ending = captions

    def captions(self) -> Iterator[tuple[str, ...]]:
        """See `Shard.captions`."""
        return (sample.captions for sample in self.samples())

    def items(self, start: int) -> Iterator[Streamed]:
        """See `Shard.items`; reconnects after a broken connection and skips the samples already read."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                for sample in islice(self.samples(pictures_from=start), start, None):
                    if sample.picture is not None:
                        yield sample.captions, sample.picture
                        start += 1
            except ConnectionError as error:  # noqa: PERF203
                if attempt == _ATTEMPTS:
                    raise UserError(
                        f"{self.name}: the connection broke {_ATTEMPTS} times, or the archive is damaged: {error}"
                    ) from error
            else:
                return

    def samples(self, pictures_from: int | None = None) -> Iterator[_Sample]:
        """The samples with a picture.

        Args:
            pictures_from: Read pictures from this number on; None reads none.

        Raises:
            UserError: If the archive or a caption cannot be read.
            ConnectionError: If a connection breaks.
        """
        number = 0
        sample = _Sample("")
        with self._open() as file:
            for member, archive in self._members(file):
                key, ending = _split_name(member.name)
                if key != sample.key:
                    if sample.place[1]:
                        yield sample
                        number += 1
                    sample = _Sample(key)
                if ending in _PICTURES:
                    wanted = pictures_from is not None and number >= pictures_from
                    picture = ImageBytes(self._read(archive, member), self._where(member)) if wanted else None
                    sample = replace(sample, picture=picture, place=(member.offset_data, member.size))
                elif ending == self._ending:
                    sample = replace(sample, captions=self._captions(self._read(archive, member), self._where(member)))
        if sample.place[1]:
            yield sample

    def _open(self) -> Any:
        try:
            if isinstance(self.location, Path):
                return self.location.open("rb")
            return urllib.request.urlopen(self.location, timeout=_TIMEOUT)
        except ConnectionError:
            raise
        except OSError as error:
            raise UserError(f"{self.name}: cannot be opened: {error}") from error

    def _members(self, file: Any) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        """Regular members; of a local archive, unused members are not read."""
        mode: Any = "r:" if isinstance(self.location, Path) else "r|"
        with self._faults(), tarfile.open(fileobj=file, mode=mode, tarinfo=_Member) as archive:
            for member in archive:
                if member.isreg() and not member.issparse():
                    yield member, archive
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turns errors of tarfile into a `UserError` or, for remote archives, a `ConnectionError`."""
        try:
            yield
        except (tarfile.TarError, HTTPException, EOFError, ValueError) as error:
            if isinstance(self.location, Path):
                raise UserError(f"{self.name}: not a readable tar archive (uncompressed): {error}") from error
            raise ConnectionError(str(error)) from error

    def _read(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        if member.size > MAX_BYTES:
            raise UserError(f"{self._where(member)}: has {member.size:,} bytes, more than {MAX_BYTES:,}")
        with self._faults():
            file = archive.extractfile(member)
            return b"" if file is None else file.read()

    def _captions(self, data: bytes, where: str) -> tuple[str, ...]:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8") from error
        if self._ending.endswith("json"):
            record = Record(parse_json(text, where), where)
            return record.captions("captions") if record.has("captions") else record.caption("caption")
        record = Record({"captions": [line.strip() for line in text.split("\n") if line.strip()]}, where)
        return record.captions("captions")

    def _where(self, member: tarfile.TarInfo) -> str:
        return f"{self.name}, {member.name}"


def _split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member: its name is split at the first dot after the last slash."""
    parent, slash, base = name.rpartition("/")
    key, _, ending = base.partition(".")
    return f"{parent}{slash}{key}", ending.lower()


class _TarImages(Sequence[ImageBytes]):
    """Lazy pictures of local archives.

    Args:
        archives: Paths.
        members: Number of the archive, offset and size of each picture.
    """

    def __init__(self, archives: list[str], members: list[tuple[int, int, int]]) -> None:
        self._archives = archives
        self._members = members

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, row: int) -> ImageBytes:  # type: ignore[override]  # slices are not needed
        """The bytes of a picture.

        Raises:
            UserError: If the archive is missing or has become shorter.
        """
        number, offset, size = self._members[row]
        name = f"{self._archives[number]}, byte {offset}"
        try:
            with Path(self._archives[number]).open("rb") as file:
                file.seek(offset)
                data = file.read(min(size, MAX_BYTES + 1))
        except OSError as error:
            raise UserError(f"{name}: cannot be read: {error}") from error
        if len(data) != size:
            raise UserError(f"{name}: the picture has {len(data)} bytes of {size}")
        return ImageBytes(data, name)

    def ends(self, row: int) -> bytes:
        """See `ends_of_picture`."""
        number, offset, size = self._members[row]
        with Path(self._archives[number]).open("rb", buffering=0) as file:
            return ends_of_part(file, offset, size)
