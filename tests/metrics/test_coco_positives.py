import numpy as np
import pytest
import torch
from eccv_caption import Metrics

from ascl_lightning.errors import UserError
from ascl_lightning.metrics.coco_positives import PROTOCOLS, coco_positives
from ascl_lightning.metrics.intervals import figure_intervals
from ascl_lightning.metrics.precision import ABSENT, relevance_queries
from ascl_lightning.metrics.query_results import RECALL_AT
from ascl_lightning.metrics.ranks import ranks_from_similarity
from ascl_lightning.metrics.recall import fold_metrics, metrics_from_ranks

OFFICIAL = Metrics()
NUM_CANDIDATES = 60
"""More than the positives of any query."""


@pytest.fixture(scope="module")
def split():
    """The COCO test set in another order: names, image of each text, numbers; ten images have a sixth text."""
    generator = np.random.default_rng(0)
    images = generator.permutation(list(OFFICIAL.coco_gts["i2t"]))
    captions, image_of_text = [], []
    for row, image in enumerate(images):
        own = [*generator.permutation(OFFICIAL.coco_gts["i2t"][image]), *([900_000 + row] if row % 500 == 7 else [])]
        captions.extend(own)
        image_of_text.extend([row] * len(own))
    names = [f"COCO_val2014_{image:012}.jpg" for image in images]
    return names, torch.tensor(image_of_text), np.array(captions, dtype=np.int64)


def number_of(name):
    return int(name.removeprefix("COCO_val2014_").removesuffix(".jpg"))


def retrieved_items(to_text, to_image, image_ids, caption_ids):
    """Numbers of the first items of each query, in the format of the package."""
    texts, images = to_text.topk(NUM_CANDIDATES).indices, to_image.T.topk(NUM_CANDIDATES).indices
    return {
        "i2t": dict(zip(image_ids.tolist(), caption_ids[texts.numpy()].tolist(), strict=True)),
        "t2i": dict(zip(caption_ids.tolist(), image_ids[images.numpy()].tolist(), strict=True)),
    }


@pytest.mark.slow
def test_figures_are_those_of_the_package(split):
    names, image_of_text, caption_ids = split
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(names), 16, generator=generator)
    texts = images[image_of_text] + 0.7 * torch.randn(len(image_of_text), 16, generator=generator)
    similarity = images @ texts.T - 5  # of both signs
    in_gallery = torch.from_numpy(caption_ids < 900_000)
    image_ids = np.array(list(map(number_of, names)))
    to_text = similarity.masked_fill(~in_gallery, -torch.inf)
    retrieved = retrieved_items(to_text, similarity, image_ids, caption_ids)
    targets = ("eccv_map_at_r", "eccv_rprecision", "eccv_r1", "cxc_recalls")
    theirs = OFFICIAL.compute_all_metrics(retrieved["i2t"], retrieved["t2i"], targets, verbose=False)
    theirs |= {f"eccv_r{k}": OFFICIAL.eccv_recalls(retrieved, "all", K=k) for k in (5, 10)}

    ours = {}
    for protocol in PROTOCOLS:
        positives = coco_positives(protocol, names, image_of_text, caption_ids)
        queries = relevance_queries(
            lambda i, t: similarity[i[:, None], t],
            positives.image_to_text,
            positives.text_to_image,
            image_of_text,
            names,
        )
        ours[protocol] = figure_intervals(queries, draws=2)

    names_of = {
        "map_at_r": "map_at_r",
        "rprecision": "r_precision",
        "r1": "recall_at_1",
        "r5": "recall_at_5",
        "r10": "recall_at_10",
    }
    assert len(theirs) == 8
    for name, values in theirs.items():
        protocol, _, figure = name.partition("_")
        for way, direction in (("i2t", "image_to_text"), ("t2i", "text_to_image")):
            assert ours[protocol][f"{direction}/{names_of[figure]}"].value == pytest.approx(100 * values[way]), name


@pytest.mark.slow
def test_recalls_of_5k_and_1k_are_those_of_the_package():
    caption_ids = OFFICIAL.coco_ids  # in the order of Karpathy's file, from which the folds are cut
    image_ids = np.array([OFFICIAL.coco_gts["t2i"][caption][0] for caption in caption_ids.tolist()])[::5]
    image_of_text = torch.arange(25_000) // 5
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(5_000, 16, generator=generator)
    similarity = images @ (images[image_of_text] + 0.9 * torch.randn(25_000, 16, generator=generator)).T
    of_other_folds = (torch.arange(5_000) // 1_000)[:, None] != image_of_text // 1_000

    whole = metrics_from_ranks(*ranks_from_similarity(similarity, image_of_text))
    folds = fold_metrics(lambda i, t: similarity[i[:, None], t], 5_000, image_of_text, 1_000)

    for scores, ours, recalls in (
        (similarity, whole, OFFICIAL.coco_5k_recalls),
        (similarity.masked_fill(of_other_folds, -torch.inf), folds, OFFICIAL.coco_1k_recalls),
    ):
        retrieved = retrieved_items(scores, scores, image_ids, caption_ids)
        for k in RECALL_AT:
            theirs = recalls(retrieved, "all", K=k)
            assert ours[f"image_to_text/recall_at_{k}"] == pytest.approx(100 * theirs["i2t"])
            assert ours[f"text_to_image/recall_at_{k}"] == pytest.approx(100 * theirs["t2i"])


def test_positives_that_the_gallery_lacks_count(split):
    names, image_of_text, caption_ids = split

    positives = coco_positives("eccv", names, image_of_text, caption_ids).image_to_text

    # the package names captions 144675 and 467259, which are not among its own 25,000
    absent = positives.query[positives.item == ABSENT].tolist()
    assert sorted(number_of(names[row]) for row in absent) == [421999, 575916]
    assert len(positives.gallery) == 25_000


def test_image_ids_may_be_plain_numbers(split):
    names, image_of_text, caption_ids = split

    assert coco_positives("cxc", [str(number_of(name)) for name in names], image_of_text, caption_ids) is not None


def test_other_images_have_no_protocol_positives(split):
    names, image_of_text, caption_ids = split

    assert coco_positives("eccv", names[:-1], image_of_text, caption_ids) is None
    assert coco_positives("eccv", [*names[:-1], "COCO_val2014_000000000042.jpg"], image_of_text, caption_ids) is None
    assert coco_positives("eccv", [f"{name}.scene" for name in names], image_of_text, caption_ids) is None


def test_captions_that_do_not_fit_are_refused(split):
    names, image_of_text, caption_ids = split
    with pytest.raises(UserError, match="which this split lacks: read the test split with KarpathyJson"):
        coco_positives("eccv", names, image_of_text, None)
    with pytest.raises(UserError, match="this split lacks 2 of them"):
        coco_positives("eccv", names, image_of_text[2:], caption_ids[2:])
    with pytest.raises(UserError, match="belongs to another image"):
        coco_positives("eccv", names, image_of_text, np.roll(caption_ids, 5))


def test_a_missing_package_is_named(split, monkeypatch):
    monkeypatch.setattr("ascl_lightning.metrics.coco_positives.find_spec", lambda name: None)

    with pytest.raises(UserError, match=r"pip install 'ascl-lightning\[protocols\]'"):
        coco_positives("eccv", *split)
