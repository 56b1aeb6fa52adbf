import copy
import time
from dataclasses import dataclass

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

from ascl_lightning.data.batch import Features
from ascl_lightning.metrics import RetrievalMetrics, alignment, fold_metrics, retrieval_metrics, uniformity

DIM = 6


def score(images: Features, texts: Features) -> Tensor:
    """Depends on global vectors and on the sum of valid tokens, but not on padding."""
    image = images.pooled + (images.tokens * images.mask[:, :, None]).sum(dim=1)
    text = texts.pooled + (texts.tokens * texts.mask[:, :, None]).sum(dim=1)
    return image @ text.T


@dataclass
class Split:
    """Encoded items of a split; padding holds large values, and valid tokens are at any position."""

    images: Features
    texts: Features
    text_image_ids: Tensor
    image_embeds: Tensor
    text_embeds: Tensor

    @property
    def metrics(self) -> dict[str, float]:
        expected = retrieval_metrics(score(self.images, self.texts), self.text_image_ids)
        return expected | {
            "alignment": alignment(self.image_embeds, self.text_embeds, self.text_image_ids),
            "uniformity/image": uniformity(self.image_embeds),
            "uniformity/text": uniformity(self.text_embeds),
        }


def make_split(num_images: int = 12, num_texts: int = 30) -> Split:
    generator = torch.Generator().manual_seed(0)

    def features(count: int, length: int) -> Features:
        mask = torch.rand(count, length, generator=generator) < 0.6
        mask[:, 0] = True
        # small integers, so that sums are exact in any order
        tokens = torch.randint(-3, 4, (count, length, DIM), generator=generator).double()
        pooled = torch.randint(-3, 4, (count, DIM), generator=generator).double()
        return Features(pooled, tokens.masked_fill(~mask[:, :, None], 1e9), mask)

    def embeds(count: int) -> Tensor:
        return F.normalize(torch.randn(count, DIM, dtype=torch.float64, generator=generator), dim=1)

    ids = torch.randint(num_images, (num_texts,), generator=generator)
    return Split(features(num_images, 5), features(num_texts, 7), ids, embeds(num_images), embeds(num_texts))


def rows_of(items: Features, rows: Tensor, padding: int = 0) -> Features:
    tokens, mask = items.tokens[rows], items.mask[rows]
    return Features(items.pooled[rows], F.pad(tokens, (0, 0, 0, padding)), F.pad(mask, (0, padding)))


def update(metric: RetrievalMetrics, split: Split, images: list[int], texts: list[int], padding: int = 0) -> None:
    """Adds some rows of the split, with ids that differ from row numbers."""
    image_rows, text_rows = torch.tensor(images, dtype=torch.long), torch.tensor(texts, dtype=torch.long)
    metric.update(
        images=rows_of(split.images, image_rows, padding),
        image_ids=100 + 3 * image_rows,
        texts=rows_of(split.texts, text_rows, 2 * padding),
        text_ids=7 * text_rows,
        text_image_ids=100 + 3 * split.text_image_ids[text_rows],
        image_embeds=split.image_embeds[image_rows],
        text_embeds=split.text_embeds[text_rows],
    )


def test_one_batch_equals_the_dense_functions():
    split, metric = make_split(), RetrievalMetrics(score)
    update(metric, split, list(range(12)), list(range(30)))

    values = metric.compute()

    assert values == pytest.approx(split.metrics)
    assert all(type(value) is float for value in values.values())


def test_batches_of_any_size_padding_and_order_and_repeated_items_change_nothing():
    split, metric = make_split(), RetrievalMetrics(score)
    update(metric, split, [7, 3, 0], [29, 4, 11], padding=1)
    update(metric, split, [], list(range(12, 30)))
    update(metric, split, [11, 10, 9, 8, 7, 3], [], padding=3)
    update(metric, split, [1, 2, 4, 5, 6, 6], [*range(13), 29], padding=2)

    assert metric.compute() == pytest.approx(split.metrics)


def test_reset_drops_all_items():
    split, metric = make_split(), RetrievalMetrics(score)
    update(metric, make_split(5, 9), [0, 1, 2, 3, 4], list(range(9)))
    metric.reset()
    update(metric, split, list(range(12)), list(range(30)))

    assert metric.compute() == pytest.approx(split.metrics)


def test_folds_follow_the_order_of_ids():
    split, metric = make_split(), RetrievalMetrics(score, fold_size=4)
    update(metric, split, list(reversed(range(12))), list(range(30)))
    matrix = score(split.images, split.texts)
    folds = fold_metrics(lambda i, j: matrix[i][:, j], 12, split.text_image_ids, 4)

    values = metric.compute()

    assert values == pytest.approx(split.metrics | {f"folds/{name}": value for name, value in folds.items()})
    assert values["folds/rsum"] != values["rsum"]


def test_a_split_smaller_than_a_fold_has_none():
    split, metric = make_split(), RetrievalMetrics(score, fold_size=13)
    update(metric, split, list(range(12)), list(range(30)))

    assert metric.compute().keys() == split.metrics.keys()


def test_a_text_without_its_image_is_refused():
    split, metric = make_split(), RetrievalMetrics(score)
    absent = int(split.text_image_ids[5])
    update(metric, split, [row for row in range(12) if row != absent], [5])
    with pytest.raises(ValueError, match=f"image {100 + 3 * absent} is missing"):
        metric.compute()


def test_no_text_at_all_is_refused():
    split, metric = make_split(), RetrievalMetrics(score)
    update(metric, split, [0, 1], [])
    with pytest.raises(ValueError, match="no text"):
        metric.compute()


def test_the_metric_does_not_own_the_scorer():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(1, 1)
            self.metric = RetrievalMetrics(self.score)

        def score(self, images, texts):
            assert not torch.is_grad_enabled()
            return self.scale.weight.double().exp() * score(images, texts)

        def forward(self, images, texts):
            return self.score(images, texts)

    model, split = Model(), make_split()

    for metric in (model.metric, RetrievalMetrics(model)):
        assert list(metric.parameters()) == []
        assert list(metric.modules()) == [metric]
        assert metric.state_dict() == {}
        copied = copy.deepcopy(metric)
        update(copied, split, list(range(12)), list(range(30)))
        assert copied.compute() == pytest.approx(split.metrics)
    assert list(model.state_dict()) == ["scale.weight", "scale.bias"]
    assert not model.metric.update_called


def test_tokens_are_kept_without_their_padding_and_in_their_dtype():
    split, metric = make_split(), RetrievalMetrics(score)
    split.images.tokens = split.images.tokens.bfloat16()
    update(metric, split, list(range(12)), list(range(30)), padding=9)

    assert metric.image_tokens[0].dtype == torch.bfloat16
    assert metric.image_tokens[0].shape == (int(split.images.mask.sum()), DIM)
    assert metric.text_tokens[0].dtype == torch.float64


def evaluate_on_one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    split, metric = make_split(), RetrievalMetrics(score)
    if rank == 0:
        update(metric, split, [0, 1, 2, 3, 4], list(range(16)))
        update(metric, split, [5, 6], [], padding=2)
    else:
        # image 0 and text 3 are repeated, as by a distributed sampler
        update(metric, split, [7, 8, 9, 10, 11, 0], [*range(16, 30), 3], padding=4)
    torch.save(metric.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="starts its processes by fork")
def test_two_processes_equal_one(tmp_path):
    # fork, since importing torchmetrics again is slow; safe with one thread per process
    processes = mp.start_processes(
        evaluate_on_one_of_two, args=(str(tmp_path),), nprocs=2, join=False, start_method="fork"
    )
    deadline = time.monotonic() + 60
    try:
        while not processes.join(timeout=1):
            assert time.monotonic() < deadline, "the processes hang"
    finally:
        for process in processes.processes:
            process.kill()

    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(make_split().metrics)
