"""Search in a gallery against a naive search that scores all pairs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.galleries import write_pictures
from tests.helpers.retrievers import pictures, small
from tests.reference.gallery import search_all

from ascl_lightning import Encoded, Gallery, Retriever, UserError
from ascl_lightning.models import FusedSimilarity

NAMES = [f"{number % 3}/{number}.png" for number in range(12)]
CAPTIONS = {NAMES[0]: ["a red kite", "a kite"], NAMES[5]: ["two dogs"], NAMES[7]: ["a blue dog", "a dog and a kite"]}
SIMILARITIES = {
    "pairwise": {},
    "independent": {"global_fusion": "independent"},
    "local": {"local_weight": 1.0, "global_fusion": "none"},
    "no tokens": {"local_weight": 0.0, "global_fusion": "none"},
    "whole texts": {"whole_texts": True, "global_fusion": "none"},
}


@pytest.fixture(scope="module", params=SIMILARITIES)
def gallery(request, tmp_path_factory) -> Gallery:
    root = tmp_path_factory.mktemp("gallery")
    write_pictures(root / "images", NAMES, CAPTIONS)
    similarity = FusedSimilarity(embed_dim=8, num_heads=2, **SIMILARITIES[request.param])
    return Gallery.index(root / "images", root / "out", small(similarity))


def encoded(gallery: Gallery) -> tuple[Encoded, list[int]]:
    """All pictures of a gallery as it stores them, and their ids."""
    ids = gallery.store.ids().tolist()
    return gallery.store.items(ids), ids


def assert_hits(gallery: Gallery, hits, terms, k: int, among: set[int] | None = None) -> None:
    items, ids = encoded(gallery)
    expected = [pair for pair in search_all(gallery.retriever, items, ids, terms) if among is None or pair[0] in among]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected[:k]], abs=1e-5)
    # near ties may be ordered either way
    best = dict(expected)
    assert [best[hit.id] for hit in hits] == pytest.approx([score for _, score in expected[:k]], abs=1e-5)
    assert len({hit.id for hit in hits}) == min(k, len(expected))


def test_a_text_finds_what_scoring_all_pairs_finds(gallery: Gallery) -> None:
    found = gallery.search("two red dogs", k=5)
    assert_hits(gallery, found.hits, [(1.0, "two red dogs")], 5)
    assert found.reason is None
    for hit in found.hits:
        assert hit.path == hit.fields["path"]
        assert (hit.fields["width"], hit.fields["height"]) == (48, 40)
        assert gallery.image_path(hit.id) == gallery.images / hit.path


def test_scores_by_level_are_the_models(gallery: Gallery) -> None:
    hit = gallery.search("a red kite", k=3).hits[1]
    similarity, image = gallery.retriever.model.similarity, gallery.store.items([hit.id])
    text = gallery.retriever.encode_texts("a red kite")
    assert hit.scores["independent"] == pytest.approx(float(image.embeds @ text.embeds.T), abs=1e-5)
    assert hit.score == hit.scores["fused"] == pytest.approx(float(gallery.retriever.score(image, text)), abs=1e-5)
    weights = {name: weight for name, (weight, _) in similarity.levels().items()}
    assert hit.scores.keys() == {"independent", "fused", *weights}
    summed = sum(weight * hit.scores[name] for name, weight in weights.items())
    assert summed == pytest.approx(hit.score, abs=1e-5)


def test_an_image_a_mixture_and_feedback(gallery: Gallery) -> None:
    picture = pictures(20)[19]
    image = gallery.retriever.encode_images([picture])
    assert_hits(gallery, gallery.search(image=picture, k=4).hits, [(1.0, image)], 4)
    mixed = gallery.search("a dog", picture, text_weight=0.25, k=4)
    assert_hits(gallery, mixed.hits, [(0.25, "a dog"), (0.75, image)], 4)
    items, ids = encoded(gallery)
    rows = {number: items[place] for place, number in enumerate(ids)}
    found = gallery.search("a dog", like=[ids[1], ids[2]], unlike=[ids[3], "a kite"], k=12)
    liked = [(0.375, rows[ids[1]]), (0.375, rows[ids[2]])]
    disliked = [(-0.075, rows[ids[3]]), (-0.075, "a kite")]
    assert_hits(gallery, found.hits, [(1.0, "a dog"), *liked, *disliked], 12)
    assert gallery.search(like=[ids[4]], k=1).hits[0].id == ids[4]


def test_filters_come_before_the_shortlist(gallery: Gallery) -> None:
    among = {number for number, row in gallery._catalogue.fields(range(12)).items() if row["folder"] == "2"}
    assert len(among) == 4
    found = gallery.search("a red kite", where="folder = '2'", k=3, candidates=3)
    assert {hit.id for hit in found.hits} <= among
    assert_hits(gallery, gallery.search("a red kite", where="folder = '2'").hits, [(1.0, "a red kite")], 10, among)


def test_the_shortlist_is_chosen_by_embeddings(gallery: Gallery) -> None:
    items, ids = encoded(gallery)
    cosines = (items.embeds @ gallery.retriever.encode_texts("two dogs").embeds[0]).tolist()
    nearest = sorted(zip(ids, cosines, strict=True), key=lambda pair: -pair[1])[:3]
    assert {hit.id for hit in gallery.search("two dogs", k=2, candidates=3).hits} <= {number for number, _ in nearest}


def test_captions_for_an_image(gallery: Gallery) -> None:
    image = pictures(15)[14]
    found = gallery.captions_of(image, k=3)
    sentences = [text for of_image in CAPTIONS.values() for text in of_image]
    scores = dict(zip(sentences, gallery.retriever.score(image, sentences)[0].tolist(), strict=True))
    assert [hit.score for hit in found] == pytest.approx(sorted(scores.values(), reverse=True)[:3], abs=2e-3)
    for hit in found:
        assert hit.score == pytest.approx(scores[hit.text], abs=2e-3)
        assert hit.text in CAPTIONS[hit.path]


def test_unknown_words_have_no_support(gallery: Gallery) -> None:
    assert "umbrella" in gallery.search("a dog and an umbrella").unsupported


def test_the_reason_for_no_answer_is_said(gallery: Gallery) -> None:
    assert (
        gallery.search("a dog", where="year = 1999").reason == "none of the 12 pictures fulfils --where 'year = 1999'"
    )
    assert gallery.search("umbrella").reason == "the model knows no word of 'umbrella'"
    # an image beside it has an answer
    assert gallery.search("umbrella", pictures(1)[0]).reason is None


def test_wrong_arguments_are_named(gallery: Gallery) -> None:
    for arguments, said in [
        ({}, "nothing to search for"),
        ({"unlike": ["a dog"]}, "nothing to search for"),
        ({"text": "a dog", "like": [99]}, "no picture with id 99"),
        ({"text": "a dog", "unlike": [99]}, "no picture with id 99"),
        ({"text": "a dog", "k": 0}, "positive"),
        ({"text": "a dog", "candidates": 0}, "positive"),
        ({"text": " "}, "blank"),
        ({"text": "a dog", "image": "nowhere.jpg"}, "no such image file"),
        ({"text": "a dog", "image": pictures(1)[0], "text_weight": 1.5}, "from 0"),
        ({"text": "a dog", "where": "yaer = 3"}, "did you mean 'year'"),
    ]:
        with pytest.raises(UserError, match=said):
            gallery.search(**arguments)
    with pytest.raises(UserError, match="no picture with id 99"):
        gallery.image_path(99)


def test_an_empty_gallery_says_so(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    gallery = Gallery.index(tmp_path / "images", tmp_path / "out", small())
    found = gallery.search("a dog")
    assert found.hits == []
    assert "the gallery is empty" in str(found.reason)
    assert gallery.captions_of(pictures(1)[0]) == []
    assert list(gallery.duplicates()) == []


def test_near_duplicates_are_pairs_of_the_same_picture(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "images", ["a.png", "b.png", "c.png"])
    again = np.asarray(Image.open(files[1])).copy()
    again[0, 0] ^= 1
    Image.fromarray(again).save(tmp_path / "images" / "d.png")
    gallery = Gallery.index(tmp_path / "images", tmp_path / "out", small())
    items, _ = encoded(gallery)
    cosines = items.embeds @ items.embeds.T
    others = cosines[torch.triu(torch.ones(4, 4), 1).bool()].sort().values
    threshold = float(others[-2:].mean())
    ((pair),) = gallery.duplicates(threshold)
    assert pair.paths == ("b.png", "d.png")
    assert pair.score == pytest.approx(float(cosines[1, 3]), abs=1e-3)


def test_another_process_can_open_a_gallery_of_python(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", ["a.png"])
    Gallery.index(tmp_path / "images", tmp_path / "out", small()).close()
    with pytest.raises(UserError, match=r"Gallery\.open\(folder, retriever\)"):
        Gallery.open(tmp_path / "out")
    assert isinstance(Gallery.open(tmp_path / "out", small()).retriever, Retriever)
