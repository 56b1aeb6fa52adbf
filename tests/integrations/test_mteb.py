"""MTEB scores a `Retriever`: by its embeddings, and in two stages.

`mteb` needs 250 MB, so it is not part of the development environment: `pip install mteb` runs these tests.
"""

import pytest
import torch
from PIL import Image
from tests.helpers.retrievers import pictures, small

mteb = pytest.importorskip("mteb", reason="mteb, of 250 MB, is not installed")
pytestmark = pytest.mark.slow

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.models_protocols import EncoderProtocol, SearchProtocol

from ascl_lightning.integrations.mteb import MtebEncoder, MtebTwoStage
from ascl_lightning.models import FusedSimilarity

TEXTS = ["a red kite", "two dogs and a blue kite", "a dog", "blue", "a kite and a dog"]
IDS = [f"d{number}" for number in range(len(TEXTS))]


@pytest.fixture(scope="module")
def retriever():
    return small(FusedSimilarity(8, 2, local_weight=0.7, global_fusion="independent"))


def of_images() -> Dataset:
    images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures(len(TEXTS))]
    return Dataset.from_dict({"id": IDS, "image": images})


def of_texts() -> Dataset:
    return Dataset.from_dict({"id": IDS, "text": TEXTS})


class Task(AbsTaskRetrieval):
    """Five texts and five pictures, the same rows being relevant."""

    metadata = TaskMetadata(
        name="Planted",
        description="planted",
        dataset={"path": "none", "revision": "1"},
        type="Any2AnyRetrieval",
        category="t2i",
        modalities=["image", "text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="hit_rate_at_1",
    )
    rows = (of_texts, of_images)

    def load_data(self, num_proc: int | None = None, **kwargs: object) -> None:
        queries, corpus = (make() for make in self.rows)
        relevant = {item: {item: 1} for item in IDS}
        split = RetrievalSplitData(queries=queries, corpus=corpus, relevant_docs=relevant, top_ranked=None)
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class Reverse(Task):
    metadata = Task.metadata.model_copy(update={"name": "PlantedReverse", "category": "i2t"})
    rows = (of_images, of_texts)


class Texts(Task):
    metadata = Task.metadata.model_copy(update={"name": "PlantedTexts", "category": "t2t"})
    rows = (of_texts, of_texts)


def score(model: object, task: type[Task]) -> float:
    result = mteb.evaluate(model, task(), cache=None, co2_tracker=False, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    return scores["recall_at_1"]


def share_right(scores: torch.Tensor) -> float:
    return (scores.argmax(1) == torch.arange(len(scores))).double().mean().item()


def test_models_follow_the_protocols(retriever) -> None:
    assert isinstance(MtebEncoder(retriever), EncoderProtocol)
    assert not isinstance(MtebEncoder(retriever), SearchProtocol)
    assert isinstance(MtebTwoStage(retriever), SearchProtocol)
    meta = MtebEncoder(retriever, "me/kites").mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.revision) == ("me/kites", 8, retriever.fingerprint[:40])


def test_recall_is_that_of_the_retriever(retriever) -> None:
    images = of_images()["image"][:]
    by_embedding, fused = retriever.similarity(images, TEXTS), retriever.score(images, TEXTS)
    assert not torch.equal(by_embedding.argmax(1), fused.argmax(1)), "the stages must differ for this test"
    assert score(MtebEncoder(retriever), Task) == pytest.approx(share_right(by_embedding.T), abs=1e-4)
    assert score(MtebTwoStage(retriever), Task) == pytest.approx(share_right(fused.T), abs=1e-4)
    assert score(MtebTwoStage(retriever), Reverse) == pytest.approx(share_right(fused), abs=1e-4)
    assert score(MtebTwoStage(retriever), Texts) == 1.0, "texts among texts are ranked by embeddings"


def test_scores_of_the_second_stage(retriever) -> None:
    model, options = MtebTwoStage(retriever, candidates=3), {"task_metadata": Task.metadata, "encode_kwargs": {}}
    fused = retriever.score(of_images()["image"][:], TEXTS)
    model.index(of_images())
    found = model.search(of_texts(), top_k=10, **options)
    assert {len(hits) for hits in found.values()} == {3}
    for row, query in enumerate(IDS):
        assert found[query] == {
            item: pytest.approx(fused[IDS.index(item), row].item(), abs=1e-6) for item in found[query]
        }
    among = model.search(of_texts(), top_k=2, top_ranked={"d0": ["d4", "d1", "d2"]}, **options)
    best = sorted(("d4", "d1", "d2"), key=lambda item: -fused[IDS.index(item), 0])[:2]
    assert list(among) == ["d0"]
    assert list(among["d0"]) == best


def test_a_picture_with_a_text_is_the_sum(retriever) -> None:
    images = of_images()["image"][:]
    batches = [{"image": images[:2], "text": TEXTS[:2]}, {"image": images[2:], "text": TEXTS[2:]}]
    found = MtebEncoder(retriever).encode(batches, task_metadata=None, hf_split="test", hf_subset="default")
    torch.testing.assert_close(found, retriever.encode_images(images).embeds + retriever.encode_texts(TEXTS).embeds)
