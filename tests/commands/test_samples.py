"""`ascl samples` end to end: what it shows is what the training loader gives."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.helpers.datasets import write_karpathy
from tests.helpers.layouts import write_shards

from ascl_lightning.__main__ import main
from ascl_lightning.commands.samples import PIXELS, SamplesCLI
from ascl_lightning.commands.training_pairs import ShownText, TrainingPairs
from ascl_lightning.data.augment.asymmetry_sampler import MadeText
from ascl_lightning.data.augment.image_operations import Blur, CropPart, Occlude, SideBySide
from ascl_lightning.data.augment.negatives import ReplaceWord, ShuffleWords
from ascl_lightning.data.augment.positives import FirstHalf, JoinCaptions
from ascl_lightning.data.batch import PixelSpec, RegionSpec, TextSpec
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import KarpathyJson, WebDataset

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests" / "configs" / "tiny.yaml")
VOID = {"meta", "img"}
IMAGE_OPERATIONS = {"crop_part": "II", "side_by_side": "III", "blur": "II", "occlude": "II"}
OPERATIONS = json.dumps(
    [{"class_path": name, "init_args": {"probability": 0.25}} for name in ("CropPart", "SideBySide", "Blur", "Occlude")]
)
MADE = {"augment": True, "positives": [JoinCaptions(), FirstHalf()], "negatives": [ShuffleWords(), ReplaceWord()]}


class Page(HTMLParser):
    """Checks that elements close in order, and keeps pictures and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open, self.pictures, self.texts = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        attributes = dict(attrs)
        assert not attributes.keys() & {"href", "srcset"}
        if "src" in attributes:
            self.pictures.append(attributes["src"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def samples(page: Path, *arguments: str) -> Page:
    assert main(["samples", *arguments, "--html", str(page)]) == 0
    return Page(page)


@pytest.fixture
def karpathy(tmp_path) -> list[str]:
    write_karpathy(tmp_path, {"train": 9, "val": 4}, captions=[2, 3, 1])
    return ["--config", TINY, "--data.root", str(tmp_path), "--data.image_operations", OPERATIONS]


def datamodule(root: Path, **arguments) -> RetrievalDataModule:
    write_karpathy(root, {"train": 9, "val": 2}, captions=[2, 3, 1])
    spec = {"image_spec": PIXELS, "text_spec": TextSpec(20, vocab_size=30), "batch_size": 4}
    return RetrievalDataModule(KarpathyJson("dataset_flickr8k.json"), str(root), **spec, **(MADE | arguments))


def test_scenes_are_shown_as_they_are(tmp_path, capsys):
    sizes = (f"--data.source.init_args.num_{split}=20" for split in ("train", "val", "test"))
    page = samples(tmp_path / "new" / "page.html", "--config", str(ROOT / "configs" / "scenes.yaml"), *sizes)
    assert len(page.pictures) == len(set(page.pictures)) == 8, "nothing changes them, so none is shown twice"
    assert page.text.count(", fed unchanged") == 8
    for operation in (*MADE["positives"], *MADE["negatives"]):
        assert f"{operation} {operation.name} ({operation.type})" in page.text
    assert "page.html" in capsys.readouterr().out


def test_the_page_is_self_contained_and_names_every_operation(tmp_path, karpathy):
    page = samples(tmp_path / "page.html", *karpathy, "--count", "9")
    # nine originals, those that an operation changed, and each of the four operations on the first
    changed = page.text.count("as fed: ")
    assert 0 < changed <= 9
    assert page.text.count(", fed unchanged") == 9 - changed
    assert len(page.pictures) == len(set(page.pictures)) == 9 + changed + 4
    assert all(picture.startswith("data:image/webp;base64,") for picture in page.pictures)
    assert "://" not in page.source
    for name, kind in IMAGE_OPERATIONS.items():
        assert f", {name} ({kind})" in page.text
    assert "as fed: " in page.text
    assert {f"train_{i:04d}.jpg" for i in range(9)} <= set(page.texts)
    for name in ("shuffle_words (I)", "join_captions (II)", "first_half (III)"):
        assert name in page.text


def test_the_terminal_shows_each_operation_too(capsys, karpathy):
    assert main(["samples", *karpathy, "--count", "2"]) == 0
    shown = capsys.readouterr().out
    for name in ("JoinCaptions", "FirstHalf", "ShuffleWords", "CropPart", "SideBySide", "Blur", "Occlude"):
        assert shown.count(f"{name}(") == 1
    assert "40 x 30 pixels become 40 x 40" in shown, "side by side"
    assert "train_000" in shown


def test_operations_that_no_config_lists_are_shown(capsys, karpathy):
    span = {"class_path": "RandomSpan", "init_args": {"least": 0.25, "most": 0.5}}
    positives = json.dumps([span, {"class_path": "AppendOtherCaption"}])
    assert main(["samples", *karpathy, "--count", "2", "--data.positives", positives]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "RandomSpan(" in shown
    assert "AppendOtherCaption(" in shown
    assert "least=0.25" in shown


def test_an_image_of_two_pairs_is_shown_once(tmp_path, karpathy):
    """Every caption a pair: five images have two or three."""
    page = samples(tmp_path / "page.html", *karpathy, "--count", "18", "--data.captions_per_image", "null")
    assert len(page.pictures) == len(set(page.pictures))
    assert page.text.count("(shown above)") >= 9


def test_the_same_seed_gives_the_same_page_and_another_epoch_another(tmp_path, karpathy):
    first, again = (samples(tmp_path / name, *karpathy).source for name in ("a.html", "b.html"))
    assert first == again
    assert samples(tmp_path / "c.html", *karpathy, "--epoch", "1").source != first
    assert samples(tmp_path / "d.html", *karpathy, "--data.seed", "1").source != first


def test_captions_are_escaped(tmp_path, karpathy):
    """The clean-up takes brackets away, except where nothing else is left; image names keep theirs."""
    file = tmp_path / "dataset_flickr8k.json"
    content = json.loads(file.read_text())
    for i, image in enumerate(content["images"]):
        (tmp_path / "images" / image["filename"]).rename(tmp_path / "images" / f"<b>&{i}.jpg")
        image["filename"] = f"<b>&{i}.jpg"
        image["sentences"] = [{"raw": "<>&", "tokens": [], "imgid": i}]
    file.write_text(json.dumps(content))
    page = samples(tmp_path / "page.html", *karpathy, "--data.negatives", "[]")
    assert "&lt;b&gt;&amp;" in page.source
    assert "&lt;&gt;&amp;" in page.source
    assert "none configured" in page.text


def test_a_count_of_0_is_one_line(capsys, karpathy):
    assert main(["samples", *karpathy, "--count", "0"]) == 2
    assert "count" in capsys.readouterr().err.splitlines()[-1]


def test_region_features_show_only_the_image_id(tmp_path):
    write_karpathy(tmp_path, {"train": 5, "val": 2}, regions=RegionSpec(3, 4))
    arguments = ["--config", TINY, "--data.root", str(tmp_path), "--data.source.init_args.images", "null"]
    page = samples(tmp_path / "page.html", *arguments, "--count", "3")
    assert page.pictures == []
    assert "train_000" in page.text


@pytest.mark.parametrize("epoch", [0, 3])
def test_pairs_are_those_of_the_training_loader(tmp_path, epoch):
    operations = tuple(of(probability=0.2) for of in (CropPart, SideBySide, Blur, Occlude))
    training = datamodule(tmp_path, image_operations=operations, bucket_by_length=True)
    training.setup("fit")
    loader = training.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(epoch)
    keys = [key for batch in loader.batch_sampler for key in batch]
    shown = list(
        TrainingPairs(datamodule(tmp_path, image_operations=operations, bucket_by_length=True)).first(99, epoch)
    )
    assert len(shown) == len(keys) == 18
    for key, pair in zip(keys, shown, strict=True):
        item = loader.dataset[key]
        assert (np.asarray(pair.fed) == item.picture.transpose(1, 2, 0)).all()
        assert pair.text == item.texts.text
        made = [item.texts.positive, item.texts.negative, item.texts.positive_negative]
        assert [text.made for text in pair.made] == made
        assert pair.origin.image_row == item.image_row
    assert {pair.image_operation for pair in shown} == {None, *operations}
    unchanged = next(pair for pair in shown if pair.image_operation is None)
    assert unchanged.origin.picture.size == (40, 30)


def test_the_vocabulary_is_as_large_as_the_model_s(karpathy):
    made = SamplesCLI(["samples", *karpathy, "--model.text_encoder.init_args.vocab_size", "7"]).datamodule
    made.setup("fit")
    assert len(made.vocabulary.words) == 5


def test_an_image_operation_is_only_named_where_it_was_applied(tmp_path):
    pairs = list(TrainingPairs(datamodule(tmp_path, augment=False, image_operations=[Occlude(0.5)])).first(18, 0))
    squares = {pair.origin.image_id: pair.fed.tobytes() for pair in pairs if pair.image_operation is None}
    for pair in pairs:
        same = pair.fed.tobytes() == squares.get(pair.origin.image_id)
        assert same == (pair.image_operation is None)


def test_the_page_names_unreadable_images(tmp_path, karpathy):
    (tmp_path / "images" / "train_0003.jpg").write_bytes(b"no picture")
    page = samples(tmp_path / "page.html", *karpathy, "--count", "9", "--data.image_operations", "[]")
    assert "Replaces unreadable" in page.text
    assert page.text.count("train_0003.jpg") == 1


def test_streamed_pairs_are_shown_as_they_are_fed(tmp_path):
    content = {"train": [(f"{i}.png", (f"caption {i} here",)) for i in range(6)], "val": [("v.png", ("a caption",))]}
    source = WebDataset(write_shards(tmp_path, content, per_shard=4).patterns, "json", streaming=True)
    spec = {"image_spec": PixelSpec(16, (0.5,) * 3, (0.5,) * 3), "text_spec": TextSpec(20, vocab_size=30)}
    made = RetrievalDataModule(
        source, str(tmp_path), **spec, **MADE, captions_per_image=1, image_operations=[Blur(probability=1.0)]
    )
    training = TrainingPairs(made)
    pairs = list(training.first(6, 0))
    assert {pair.text for pair in pairs} == {f"caption {i} here" for i in range(6)}
    assert all(pair.origin.picture is None and pair.fed.size == (16, 16) for pair in pairs)
    assert {pair.image_operation for pair in pairs} == {Blur(probability=1.0)}
    assert len(list(training.each_text_operation(pairs[0], 0))) == 4
    (blurred,) = training.each_image_operation([pairs[0].picture], 0)
    assert blurred.picture.size == (16, 16)


def test_without_pictures_no_image_operation_is_shown(tmp_path):
    training = TrainingPairs(datamodule(tmp_path, image_operations=[Blur()]))
    assert list(training.each_image_operation([], 0)) == []
    (made,) = training.each_image_operation([Image.new("RGB", (9, 9))], 0)
    assert made.operation == Blur()


@pytest.mark.parametrize(
    ("source", "text", "changes"),
    [
        ("a red dog", "a blue dog", [("", "a"), ("del", "red"), ("ins", "blue"), ("", "dog")]),
        ("a red dog", "a red", [("", "a red"), ("del", "dog")]),
        ("a dog", "a dog runs", [("", "a dog"), ("ins", "runs")]),
        ("a dog", "a dog", [("", "a dog")]),
        ("a dog", None, [("del", "a dog")]),
    ],
)
def test_changed_words_are_marked(source, text, changes):
    made = None if text is None else MadeText(text, "any")
    assert ShownText("T-", source, made, "I").changes == changes
