from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers.datasets import write_regions
from tests.helpers.layouts import LAYOUTS, Content

from ascl_lightning.data.batch import Features, RegionSpec
from ascl_lightning.data.sources import JsonLines, KarpathyJson, Mixture, Scenes, Source, Split
from ascl_lightning.data.sources.base import MissingSplitError
from ascl_lightning.data.sources.mixture import Joined
from ascl_lightning.data.stored_features import FeatureTable, Manifest, SplitFeatures, write_shard
from ascl_lightning.errors import UserError

PHOTOS: Content = {"train": [("a.png", ("one", "two")), ("b.png", ())], "val": [("v.png", ("x",))]}
WEB: Content = {"train": [("a.png", ("three",)), ("c.png", ("four",)), ("d.png", ("five",))]}


def parts(root: Path) -> dict[str, Source]:
    for name in ("photos", "web"):
        (root / name).mkdir()
    return {
        "photos": LAYOUTS["karpathy"].write(root / "photos", PHOTOS),
        "web": LAYOUTS["jsonl"].write(root / "web", WEB),
    }


def mixture(root: Path, **arguments: dict[str, float]) -> Mixture:
    return Mixture(parts(root), folders={"photos": "photos", "web": "web"}, **arguments)


def test_ids_say_which_source_an_image_is_of(tmp_path: Path) -> None:
    split = mixture(tmp_path, weights={"web": 0.5}).read(tmp_path, "train")
    assert split.image_ids == ["photos/a.png", "photos/b.png", "web/a.png", "web/c.png", "web/d.png"]
    assert list(split.captions) == [("one", "two"), (), ("three",), ("four",), ("five",)]
    assert [str(path.relative_to(tmp_path)) for path in (split.images[row] for row in (0, 4))] == [
        "photos/images/a.png",
        "web/d.png",
    ]
    assert split.passes == ((2, 1.0), (3, 0.5))


def test_a_source_that_lacks_a_split_adds_nothing(tmp_path: Path) -> None:
    split = mixture(tmp_path).read(tmp_path, "val")
    assert split.image_ids == ["photos/v.png"]
    assert split.passes == ((1, 1.0),)


def test_a_split_that_no_source_has(tmp_path: Path) -> None:
    with pytest.raises(MissingSplitError, match="mixture of photos, web: there is no split 'test'"):
        mixture(tmp_path).read(tmp_path, "test")


def test_other_faults_of_a_source_are_not_passed_over(tmp_path: Path) -> None:
    source = mixture(tmp_path)
    (tmp_path / "web" / "train.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"train\.jsonl, line 1: field 'image' is missing"):
        source.read(tmp_path, "train")


def test_sources_without_a_folder_of_their_own_share_the_root(tmp_path: Path) -> None:
    one, two = LAYOUTS["jsonl"].write(tmp_path, PHOTOS), Scenes(num_train=2)
    split = Mixture({"one": one, "two": two}).read(tmp_path, "train")
    assert split.image_ids[:2] == ["one/a.png", "one/b.png"]
    assert len(split) == 4
    assert len(Mixture({"two": two}).read(None, "train")) == 2


def test_pictures_and_captions_alone_do_not_mix(tmp_path: Path) -> None:
    write_regions(tmp_path / "regions" / "a.npy", 0, RegionSpec(2, 3))
    sources = parts(tmp_path)
    sources["photos"] = KarpathyJson("dataset.json", images=None)
    with pytest.raises(UserError, match="some sources have pictures and some have none"):
        Mixture(sources, folders={"photos": "photos", "web": "web"}).read(tmp_path, "train")


class Extracted(JsonLines):
    def read(self, root: Path | None, split: str) -> Split:
        Manifest("tower", "items", 2).write(root / "table")
        features = Features(torch.zeros(2, 1), torch.ones(2, 1, 1), torch.ones(2, 1).bool())
        write_shard(root / "table", 0, [features], "float16")
        return replace(super().read(root, split), images=None, features=SplitFeatures(FeatureTable(root / "table")))


def test_extracted_features_are_not_mixed(tmp_path: Path) -> None:
    sources = parts(tmp_path)
    LAYOUTS["jsonl"].write(tmp_path, PHOTOS)
    sources["features"] = Extracted({"train": "train.jsonl"})
    with pytest.raises(UserError, match="'features' holds extracted features; run `ascl extract` on the mixture"):
        Mixture(sources, folders={"photos": "photos", "web": "web"}).read(tmp_path, "train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"wed": 1.0}}, "'wed' is not one of its sources: photos, web"),
        ({"folders": {"wed": "x"}}, "'wed' is not one of its sources"),
        ({"weights": {"web": 0.0}}, "the weight of 'web' is 0.0; give a positive number"),
        ({"weights": {"web": -1.0}}, "give a positive number"),
        ({"weights": {"web": float("inf")}}, "give a positive number"),
        ({"weights": {"web": float("nan")}}, "give a positive number"),
    ],
)
def test_impossible_arguments(arguments: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixture({"photos": Scenes(), "web": Scenes()}, **arguments)


def test_joined_sequences() -> None:
    joined = Joined([[1, 2], [], (3,), range(4, 6)])
    assert [joined[row] for row in range(5)] == list(joined) == [1, 2, 3, 4, 5]
    assert (len(joined), joined[-1], joined[-5]) == (5, 5, 1)
    for row in (5, -6):
        with pytest.raises(IndexError):
            joined[row]
