"""Converts towers with their projections to ONNX graphs, and compares these with the model."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ascl_lightning.data.batch import TokenizedTexts
from ascl_lightning.errors import UserError, first_line
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.pooling import GeneralizedPooling

TOLERANCE = 1e-4
"""Largest difference between a graph and the model, relative to the largest value of an output if that is above 1."""
OUTPUTS = ("embeddings", "tokens", "mask")
_INT32, _BOOL = 6, 9  # of `onnx.TensorProto`


class Outputs(NamedTuple):
    """What a graph returns for B items."""

    embeddings: Tensor
    """L2-normalised global vectors, (B, D); their dot product is the cosine of an image and a text."""
    tokens: Tensor
    """Local tokens for the second stage, (B, K, T): of images L2-normalised, of texts not; undefined at padding."""
    mask: Tensor
    """True for real tokens, (B, K)."""


class Graph(nn.Module):
    """A side of a model as a graph.

    Args:
        model: The model, on the CPU; set to evaluation mode.
        inputs: Names of the inputs, in order.
        axes: Names of the first axes of each input, which may have any size.
        pooling: The side's learned pooling of tokens, if any.
    """

    def __init__(
        self, model: ImageTextModel, inputs: Sequence[str], axes: Sequence[str], pooling: GeneralizedPooling | None
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.axes, self.pooling = inputs, axes, pooling
        self.eval()


class ImageGraph(Graph):
    """Encodes uint8 pictures, (N, 3, S, S)."""

    def __init__(self, model: ImageTextModel) -> None:
        super().__init__(model, ["pixels"], ["images"], model.image_pooling)

    def forward(self, pixels: Tensor) -> Outputs:
        """The outputs for N pictures."""
        features = self.model.encode_images(pixels)
        return Outputs(self.model.similarity.image_embeds(features), features.tokens, features.mask)


class TextGraph(Graph):
    """Encodes token ids with their mask, both int64 and (M, L).

    A tower for which special tokens are not words has a third input, which is 1 for special tokens and padding.
    """

    def __init__(self, model: ImageTextModel) -> None:
        third = [] if model.text_encoder.special_tokens_are_words else ["special_tokens_mask"]
        inputs = ["input_ids", "attention_mask", *third]
        super().__init__(model, inputs, ["texts", "length"], model.text_pooling)

    def arguments(self, texts: TokenizedTexts) -> tuple[Tensor, ...]:
        """The inputs for tokenized texts."""
        masks = texts.attention_mask.long(), texts.special_mask.long()
        return (texts.input_ids, *masks)[: len(self.inputs)]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, special_tokens_mask: Tensor | None = None) -> Outputs:
        """The outputs for M texts."""
        mask = attention_mask.bool()
        special = ~mask if special_tokens_mask is None else special_tokens_mask.bool()
        features = self.model.encode_texts(TokenizedTexts(input_ids, mask, special))
        return Outputs(self.model.similarity.text_embeds(features), features.tokens, features.mask)


class OnnxGraph:
    """A graph in onnxruntime, on the CPU.

    Args:
        file: The `.onnx` file.

    Raises:
        UserError: If onnxruntime cannot load it.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the classes of its errors are private
            raise UserError(f"onnxruntime cannot load '{file.name}': {first_line(error)}") from error
        self.inputs: list[str] = [value.name for value in self._session.get_inputs()]

    def __call__(self, *values: Tensor) -> Outputs:
        """Outputs for inputs in the order of the graph."""
        feeds = {name: value.numpy() for name, value in zip(self.inputs, values, strict=True)}
        return Outputs(*map(torch.from_numpy, self._session.run(list(OUTPUTS), feeds)))


def write_graph(graph: Graph, examples: Sequence[tuple[Tensor, ...]], file: Path) -> float:
    """Writes a graph and checks it.

    Args:
        graph: The graph.
        examples: Inputs in several sizes, among them the longest texts. The first are traced, all are compared.
        file: The file. Weights above 1.5 GB go into a second file beside it.

    Returns:
        The largest difference from the model; see `difference`.

    Raises:
        UserError: If the model cannot be converted, or a difference is above `TOLERANCE`.
    """
    with torch.no_grad():
        expected = [graph(*inputs) for inputs in examples]
        longest = max(outputs.mask.shape[1] for outputs in expected)
        # the GRU of learned pooling cannot run for a variable length
        with nullcontext() if graph.pooling is None else graph.pooling.tabulated(longest):
            program = _converted(graph, examples[0], file)
    program.save(file, external_data=False)
    loaded = OnnxGraph(file)
    found = max(difference(loaded(*inputs), outputs) for inputs, outputs in zip(examples, expected, strict=True))
    if not found <= TOLERANCE:
        raise UserError(f"'{file.name}' differs from the model by {found:.1e}, more than {TOLERANCE:g}")
    return found


def difference(found: Outputs, expected: Outputs) -> float:
    """The largest difference of real values, relative to the largest expected one if that is above 1.

    Infinite if the masks differ or a value is not finite.
    """
    if not torch.equal(found.mask, expected.mask):
        return math.inf
    pairs = (
        (found.embeddings, expected.embeddings),
        (found.tokens[expected.mask], expected.tokens[expected.mask]),
    )
    worst = 0.0
    for one, other in pairs:
        if other.numel() > 0:
            gap = ((one - other).abs().max() / other.abs().max().clamp_min(1)).item()
            worst = max(worst, gap if math.isfinite(gap) else math.inf)
    return worst


def _converted(graph: Graph, inputs: tuple[Tensor, ...], file: Path) -> Any:
    # the other inputs have the same axes, of which one name suffices
    unnamed: dict[int, Any] = dict.fromkeys(range(len(graph.axes)), torch.export.Dim.DYNAMIC)
    axes = (dict(enumerate(graph.axes)), *(unnamed for _ in inputs[1:]))
    try:
        return torch.onnx.export(
            graph,
            inputs,
            input_names=list(graph.inputs),
            output_names=list(OUTPUTS),
            dynamic_shapes=axes,
            custom_translation_table=_translations(),
            dynamo=True,
            verbose=False,
        )
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the tracer, the converter and the optimiser are three libraries with their own errors
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(f"'{file.name}': the model cannot be converted to ONNX: {first_line(cause)}") from error


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators that the exporter does not know."""
    from onnxscript import opset18 as op

    def is_all_true(values: Any) -> Any:  # a check of SigLIP 2's tower
        return op.Cast(op.ReduceMin(op.Cast(values, to=_INT32), keepdims=0), to=_BOOL)

    return {torch.ops.aten._is_all_true.default: is_all_true}
