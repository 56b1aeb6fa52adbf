"""Variants of the captions of a split, row by row, and their file, with which two models are compared."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from zlib import crc32

import numpy as np

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.draws import keyed_rng
from ascl_lightning.runtime.files import atomic_file

VariantType = Literal["I", "II", "III"]
UNCHANGED = "unchanged"
_META = b"ascl_variants"
_COLUMNS = ("text_row", "image_id", "operation", "level", "text")

Value = TypeVar("Value")
Rung = TypeVar("Rung")
OtherRung = TypeVar("OtherRung")


@dataclass(frozen=True)
class VariantStep:
    """The texts that an operation makes from all captions at one level.

    Args:
        level: Amount of change, in units of the ladder.
        texts: One cleaned text per caption; the caption itself if the operation cannot change it.
    """

    level: float
    texts: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Ladder(Generic[Rung]):
    """One operation at increasing levels: texts (`VariantStep`) or their results (`evaluation.report_card.curves`).

    Args:
        type: How its texts differ from their captions (docs/method.md#information-asymmetry).
        operation: Its name.
        unit: Unit of the levels, in words.
        unchanged: The level without change.
        steps: The other levels, in order of increasing change.
        exact: Whether its texts are known to be true of the image (types II and III, except `append_others`) or false
            (type I, `append_others`).
    """

    type: VariantType
    operation: str
    unit: str
    unchanged: float
    steps: tuple[Rung, ...]
    exact: bool = False

    def with_steps(self, steps: Iterable[OtherRung]) -> "Ladder[OtherRung]":
        """The same operation with other steps."""
        return Ladder(self.type, self.operation, self.unit, self.unchanged, tuple(steps), self.exact)


@dataclass(frozen=True)
class Variants:
    """The variants of captions of a split.

    Args:
        seed: Seed of all draws.
        text_rows: Row of each caption in its split.
        captions: The cleaned captions.
        ladders: Operations that change at least one caption.
        not_run: The other operations, with the reason.
    """

    seed: int
    text_rows: tuple[int, ...]
    captions: tuple[str, ...]
    ladders: tuple[Ladder[VariantStep], ...]
    not_run: dict[str, str]

    @classmethod
    def of(
        cls,
        seed: int,
        text_rows: Sequence[int],
        captions: Sequence[str],
        ladders: Sequence[Ladder[VariantStep]],
        not_run: Mapping[str, str],
    ) -> "Variants":
        """Moves operations that change no caption to `not_run`; the arguments are the fields."""
        texts, kept, idle = tuple(captions), [], {}
        for ladder in ladders:
            if any(step.texts != texts for step in ladder.steps):
                kept.append(ladder)
            else:
                idle[ladder.operation] = "it changes no caption here"
        return cls(seed, tuple(text_rows), texts, tuple(kept), {**not_run, **idle})

    def of_captions(self, text_rows: Sequence[int], captions: Sequence[str]) -> "Variants":
        """The variants of some captions.

        Args:
            text_rows: Their rows in the split.
            captions: The cleaned captions.

        Raises:
            UserError: If some captions are missing or differ.
        """
        places = {row: place for place, row in enumerate(self.text_rows)}
        chosen = [places[row] for row in text_rows if row in places]
        here = [text for row, text in zip(text_rows, captions, strict=True) if row in places]
        if _pick(self.captions, chosen) != tuple(here):
            raise UserError("the variants are of other captions: omit --report_card.variants to make new ones")
        if len(chosen) < len(text_rows):
            raise UserError(
                f"of {len(text_rows)} captions {len(text_rows) - len(chosen)} have no variants in the file: set "
                f"--report_card.captions to what it was made with, or omit --report_card.variants"
            )
        ladders = [
            ladder.with_steps(VariantStep(step.level, _pick(step.texts, chosen)) for step in ladder.steps)
            for ladder in self.ladders
        ]
        return self.of(self.seed, text_rows, captions, ladders, self.not_run)

    def save(self, path: Path, image_ids: Sequence[str]) -> None:
        """Writes a Parquet file: a row for each caption, then for each operation, level and caption.

        Args:
            path: The file.
            image_ids: Id of each caption's image.
        """
        import pyarrow as pa
        from pyarrow import parquet

        blocks = [(UNCHANGED, 0.0, self.captions)]
        blocks += [(ladder.operation, step.level, step.texts) for ladder in self.ladders for step in ladder.steps]
        size = len(self.text_rows)
        values: tuple[list[Any], ...] = (
            list(self.text_rows) * len(blocks),
            list(image_ids) * len(blocks),
            [operation for operation, _, _ in blocks for _ in range(size)],
            [level for _, level, _ in blocks for _ in range(size)],
            [text for _, _, texts in blocks for text in texts],
        )
        kinds = (pa.int64(), pa.string(), pa.string(), pa.float64(), pa.string())
        columns = [pa.array(value, kind) for value, kind in zip(values, kinds, strict=True)]
        table = pa.table(columns, names=list(_COLUMNS)).replace_schema_metadata({_META: json.dumps(self._meta())})
        with atomic_file(path) as file:
            parquet.write_table(table, file, compression="zstd")

    def _meta(self) -> dict[str, Any]:
        ladders = [
            {"levels": [step.level for step in ladder.steps]}
            | {name: value for name, value in vars(ladder).items() if name != "steps"}
            for ladder in self.ladders
        ]
        return {"seed": self.seed, "not_run": self.not_run, "ladders": ladders}

    @classmethod
    def load(cls, path: Path) -> "Variants":
        """Reads a file of `save`.

        Raises:
            UserError: If there is no such file, or it is another kind of file.
        """
        import pyarrow as pa
        from pyarrow import parquet

        try:
            table = parquet.read_table(path)
            meta = json.loads(table.schema.metadata[_META])
            columns = {name: table.column(name).to_pylist() for name in _COLUMNS}
            size = columns["operation"].count(UNCHANGED)
            blocks = iter([tuple(columns["text"][start : start + size]) for start in range(0, table.num_rows, size)])
            captions = next(blocks)
            ladders = []
            for ladder in meta.pop("ladders"):
                steps = tuple(VariantStep(level, next(blocks)) for level in ladder.pop("levels"))
                ladders.append(Ladder(steps=steps, **ladder))
            return cls(text_rows=tuple(columns["text_row"][:size]), captions=captions, ladders=tuple(ladders), **meta)
        except OSError as error:
            raise UserError(f"{path}: the variants cannot be read ({error})") from error
        except (pa.ArrowInvalid, KeyError, TypeError, ValueError, StopIteration) as error:
            raise UserError(f"{path}: no variants of captions; give a variants.parquet of a report card") from error


def draws_of(seed: int, operation: str, row: int) -> np.random.Generator:
    """Generator of the draws of an operation on a caption, which depends on nothing else."""
    return keyed_rng(seed, crc32(operation.encode()), row)


def by_level(made: Sequence[Sequence[Value]], unchanged: Sequence[Value]) -> list[list[Value]]:
    """Transposes texts by caption to texts by level.

    Args:
        made: The texts of each caption at increasing levels; missing levels repeat the last one.
        unchanged: The captions, used if nothing was made from one.

    Example:
        >>> by_level([["a b", "a b c"], ["d e"], []], ["a", "d", "f"])
        [['a b', 'd e', 'f'], ['a b c', 'd e', 'f']]
    """
    filled = [list(of_caption) or [text] for of_caption, text in zip(made, unchanged, strict=True)]
    most = max(map(len, made), default=0)
    return [[of_caption[min(level, len(of_caption) - 1)] for of_caption in filled] for level in range(most)]


def _pick(values: Sequence[Value], places: Sequence[int]) -> tuple[Value, ...]:
    return tuple(values[place] for place in places)
