"""Writes a model as two ONNX graphs, with all that is needed to serve them without this package."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ascl_lightning
from ascl_lightning.api import Retriever
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.sources import Split
from ascl_lightning.data.text import MAX_WORDS, WordTokenizer
from ascl_lightning.errors import UserError
from ascl_lightning.export.graphs import TOLERANCE, ImageGraph, TextGraph, write_graph
from ascl_lightning.export.int8 import Int8Loss, measure_loss, write_int8
from ascl_lightning.export.tokenizer_file import with_clean_up
from ascl_lightning.runtime.files import atomic_folder, write_file

DESCRIPTION = "model.json"
TOKENIZER = "tokenizer.json"
GRAPHS = ("images.onnx", "texts.onnx")
INT8_GRAPHS = ("images.int8.onnx", "texts.int8.onnx")
FORMAT = "ascl_lightning onnx 1"
_LICENCE = "The terms of the training data and of the pretrained towers in config.yaml apply; the code is Apache-2.0."
_WORDS = "a man in a red jacket and two small dogs run along the beach near some blue water".split()


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Args:
        differences: Largest difference of each graph from the model, by file.
        loss: Recall before and after quantisation; None without quantised graphs.
    """

    differences: dict[str, float]
    loss: Int8Loss | None


def export_onnx(retriever: Retriever, folder: Path, int8_split: Split | None = None) -> Exported:
    """Writes `images.onnx`, `texts.onnx`, `tokenizer.json` and `model.json`, which describes them (docs/export.md).

    Args:
        retriever: The model; it is moved to the CPU.
        folder: Folder to write, or to replace if it is an earlier export.
        int8_split: Also writes quantised graphs, and measures on this split what they cost.

    Raises:
        UserError: If the folder has other files, the model takes no pictures or cannot be converted, or a graph differs
            from the model.
    """
    require_export_folder(folder)
    if not isinstance(retriever.image_spec, PixelSpec):
        raise UserError("ascl export: this model takes extracted regions; only models of pictures can be exported")
    model = retriever.to("cpu").model
    images, texts = ImageGraph(model), TextGraph(model)
    examples = _pictures(retriever.image_spec), _texts(retriever, texts)
    with atomic_folder(folder) as partial:
        with_clean_up(retriever.tokenizer).save(str(partial / TOKENIZER))
        files = [partial / name for name in GRAPHS]
        differences = {
            files[0].name: write_graph(images, examples[0], files[0]),
            files[1].name: write_graph(texts, examples[1], files[1]),
        }
        loss = None
        if int8_split is not None:
            quantized = [partial / name for name in INT8_GRAPHS]
            for file, small in zip(files, quantized, strict=True):
                write_int8(file, small)
            loss = measure_loss(retriever, int8_split, files, quantized)
        description = _description(retriever, images, texts, Exported(differences, loss), examples)
        write_file(partial / DESCRIPTION, json.dumps(description, indent=1) + "\n")
    return Exported(differences, loss)


def require_export_folder(folder: Path) -> None:
    """Checks that an export may replace a folder.

    Raises:
        UserError: If it has files that are not from an export.
    """
    if folder.exists() and not (folder / DESCRIPTION).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--out {folder}: it has other files, which an export would remove; give a new folder")


def _pictures(spec: PixelSpec) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randint(0, 256, (count, 3, spec.size, spec.size), dtype=torch.uint8, generator=generator),)
        for count in (2, 3)
    ]


def _texts(retriever: Retriever, graph: TextGraph) -> list[tuple[Tensor, ...]]:
    """Texts of up to 5 words, and of 1 word to the maximum length."""
    tokenizer, longest = retriever.tokenizer, retriever.model.text_encoder.spec.max_length
    words: Sequence[str] = _WORDS
    if isinstance(tokenizer, WordTokenizer) and tokenizer.vocabulary.words:
        words = tokenizer.vocabulary.words
    batches = [[" ".join(islice(cycle(words), count)) for count in counts] for counts in ((3, 5), (1, 4, longest))]
    return [graph.arguments(tokenizer(batch)[0]) for batch in batches]


def _description(
    retriever: Retriever,
    images: ImageGraph,
    texts: TextGraph,
    exported: Exported,
    examples: tuple[Sequence[Any], Sequence[Any]],
) -> dict[str, Any]:
    """The content of `model.json`."""
    spec, similarity = retriever.image_spec, retriever.model.similarity
    assert isinstance(spec, PixelSpec)
    with torch.no_grad():
        num_tokens = images(*examples[0][0]).tokens.shape[1]
    sizes = retriever.embed_dim, similarity.local_dim
    described = {
        "format": FORMAT,
        "made_with": {"ascl-lightning": ascl_lightning.__version__, "torch": torch.__version__},
        "fingerprint": retriever.fingerprint,
        "licence": _LICENCE,
        "similarity": "dot product of embeddings, which have length 1",
        "largest_difference_from_torch": exported.differences,
        "tolerance": TOLERANCE,
        "images": {
            "file": GRAPHS[0],
            "inputs": {"pixels": _value("uint8", "images", 3, spec.size, spec.size)},
            "outputs": _outputs("images", num_tokens, *sizes),
            "preprocessing": asdict(spec)
            | {"colour": "RGB", "antialias": True, "normalisation": "inside the graph: (pixels / 255 - mean) / std"},
        },
        "texts": {
            "file": GRAPHS[1],
            "inputs": {name: _value("int64", "texts", "length") for name in texts.inputs},
            "outputs": _outputs("texts", "length", *sizes),
            "tokenizer": TOKENIZER,
            "max_length": retriever.model.text_encoder.spec.max_length,
            "clean_up": f"inside tokenizer.json: lower case, no punctuation, {MAX_WORDS} words",
        },
    }
    if exported.loss is not None:
        files = dict(zip(("images", "texts"), INT8_GRAPHS, strict=True))
        described["int8"] = files | {"recall": asdict(exported.loss)}
    return described


def _outputs(items: str, num_tokens: int | str, embed_dim: int, token_dim: int) -> dict[str, Any]:
    return {
        "embeddings": _value("float32", items, embed_dim),
        "tokens": _value("float32", items, num_tokens, token_dim),
        "mask": _value("bool", items, num_tokens),
    }


def _value(dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape)}
