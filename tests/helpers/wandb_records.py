"""Reads the file in which W&B records a run offline, as `wandb sync` does: blocks of checksummed protocol buffers.

The layout is that of LevelDB's log (its `doc/log_format.md`) behind a header of 7 bytes, with CRC-32 as checksum.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import ArtifactRecord, Record

_HEADER, _BLOCK = 7, 32_768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class RecordedRun:
    """What a run sent, in order."""

    id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    """The metric that each defined metric is drawn against."""
    artifacts: list[ArtifactRecord] = field(default_factory=list)
    machine: set[str] = field(default_factory=set)
    """Names of the measurements of the machine."""

    @property
    def keys(self) -> set[str]:
        """Names of everything in the history."""
        return {name for row in self.history for name in row if not name.startswith("_")}

    def artifact(self, kind: str) -> ArtifactRecord:
        """The only artifact of a type."""
        (found,) = (artifact for artifact in self.artifacts if artifact.type == kind)
        return found

    def table(self, name: str, place: int = -1) -> tuple[list[str], list[list[Any]], dict[str, Path]]:
        """Columns and rows of a logged table, and the files of its pictures by their paths in its artifact."""
        logged = [row[name] for row in self.history if name in row][place]
        client = logged["artifact_path"].removeprefix("wandb-client-artifact://").split("/")[0]
        (artifact,) = (artifact for artifact in self.artifacts if artifact.client_id == client)
        files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        content = json.loads(files[f"{name}.table.json"].read_text())
        return content["columns"], content["data"], files


def read_runs(folder: Path) -> list[RecordedRun]:
    """The runs that were recorded below a folder, the oldest first."""
    paths = folder.glob("**/offline-run-*/run-*.wandb")
    return [_read(path) for path in sorted(paths, key=lambda path: path.parent.name)]


def _read(path: Path) -> RecordedRun:
    run = RecordedRun()
    for record in _records(path.read_bytes()):
        _add(run, record)
    return run


def _add(run: RecordedRun, record: Record) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run.id = record.run.run_id
        _update(run.config, record.run.config.update)
    elif kind == "config":
        _update(run.config, record.config.update)
    elif kind == "history":
        row: dict[str, Any] = {}
        _update(row, record.history.item)
        run.history.append(row)
    elif kind == "summary":
        _update(run.summary, record.summary.update)
    elif kind == "metric":
        run.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    elif kind == "artifact":
        run.artifacts.append(record.artifact)
    elif kind == "stats":
        run.machine |= {item.key for item in record.stats.item}


def _update(target: dict[str, Any], items: Any) -> None:
    for item in items:
        *parents, name = list(item.nested_key) or [item.key]
        place = target
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = json.loads(item.value_json)


def _records(data: bytes) -> Iterator[Record]:
    assert data[:4] == b":W&B", "the mark of the format"
    position, parts = _HEADER, b""
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        checksum, length, kind = struct.unpack_from("<IHB", data, position) if left >= 7 else (0, 0, 0)
        if kind == 0:  # what is left of a block has no room for a record
            position += left
            continue
        body = data[position + 7 : position + 7 + length]
        assert zlib.crc32(bytes([kind]) + body) == checksum
        position += 7 + length
        parts = parts + body if kind in (_MIDDLE, _LAST) else body
        if kind in (_FULL, _LAST):
            yield Record.FromString(parts)
