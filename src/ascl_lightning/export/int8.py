"""Dynamic quantisation of ONNX graphs, and the recall that it costs."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ascl_lightning.api import Retriever
from ascl_lightning.data.batch import Features
from ascl_lightning.data.inputs import read_pictures
from ascl_lightning.data.sources import Split
from ascl_lightning.data.text import clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.export.graphs import OnnxGraph, TextGraph
from ascl_lightning.metrics.recall import retrieval_metrics

_OPERATORS = ["MatMul", "Gemm", "Gather"]
"""Convolutions keep float32 weights: dynamically quantised ones are slower on CPUs."""
_IMAGES, _TEXTS = 32, 128  # per batch

Recalls = dict[str, dict[str, float]]
"""Metrics of `retrieval_metrics` by score: `embeddings`, and `local` if the model has that level."""


@dataclass(frozen=True)
class Int8Loss:
    """Recall before and after quantisation, on one split.

    Args:
        num_images: N.
        num_texts: M.
        float32: Recalls of the float32 graphs.
        int8: Recalls of the quantised graphs.
    """

    num_images: int
    num_texts: int
    float32: Recalls
    int8: Recalls


def write_int8(file: Path, quantized: Path) -> None:
    """Writes a graph with weights of 8 bits; activations are quantised when it runs.

    Args:
        file: The float32 graph.
        quantized: The file to write.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _without_advice():
        quantize_dynamic(
            file,
            quantized,
            op_types_to_quantize=_OPERATORS,
            weight_type=QuantType.QUInt8,
            use_external_data_format=file.with_name(f"{file.name}.data").exists(),
        )


def measure_loss(retriever: Retriever, split: Split, float32: Sequence[Path], int8: Sequence[Path]) -> Int8Loss:
    """Recall of the scores that the graphs' outputs determine, on all images and captions of a split.

    Args:
        retriever: The exported model.
        split: Images with captions.
        float32: The graphs of images and texts.
        int8: The same, quantised.

    Raises:
        UserError: If the split has no pictures or no captions, or a picture cannot be read.
    """
    captions = [clean_caption(text) for of_image in split.captions for text in of_image]
    if split.images is None or not captions:
        raise UserError("--split: it has no pictures with captions to measure the loss of recall on; choose another")
    rows = torch.tensor([row for row, of_image in enumerate(split.captions) for _ in of_image])
    measured = [
        _recalls(retriever, split.images, captions, rows, *map(OnnxGraph, graphs)) for graphs in (float32, int8)
    ]
    return Int8Loss(len(split.images), len(captions), *measured)


def _recalls(
    retriever: Retriever, pictures: Any, captions: Sequence[str], rows: Tensor, images: OnnxGraph, texts: OnnxGraph
) -> Recalls:
    spec, arguments = retriever.image_spec, TextGraph(retriever.model).arguments
    pixels = (read_pictures(part, spec) for part in _parts(pictures, _IMAGES))
    encoded_images = _joined(images(batch) for batch in pixels if isinstance(batch, Tensor))
    encoded_texts = _joined(texts(*arguments(retriever.tokenizer(part)[0])) for part in _parts(captions, _TEXTS))
    scores = {"embeddings": encoded_images.pooled @ encoded_texts.pooled.T}
    levels = retriever.model.similarity.levels()
    if "local" in levels:
        with torch.no_grad():
            scores["local"] = levels["local"][1](encoded_images, encoded_texts)
    return {name: retrieval_metrics(values, rows) for name, values in scores.items()}


def _parts(values: Any, size: int) -> Iterator[list[Any]]:
    for start in range(0, len(values), size):
        yield [values[row] for row in range(start, min(start + size, len(values)))]


def _joined(parts: Iterator[Any]) -> Features:
    return Features.join([Features(part.embeddings, part.tokens, part.mask) for part in parts])


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hides a warning about a preparation that fails for graphs of this exporter."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
