"""The Python API: equal to the command line to the last digit, and one clear error for what it cannot take."""

import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tests.helpers.retrievers import pictures, small

from ascl_lightning import Hit, Retriever, UserError
from ascl_lightning.__main__ import main
from ascl_lightning.data.sources import Scenes
from ascl_lightning.data.text import Vocabulary
from ascl_lightning.losses import AsymmetricContrastiveLoss
from ascl_lightning.metrics.query_results import read_queries
from ascl_lightning.metrics.recall import streamed_ranks
from ascl_lightning.models import ConvImageEncoder, FusedSimilarity, WordConvolution
from ascl_lightning.models.similarity import fused
from ascl_lightning.models.towers.pretrained import resolve_repository
from ascl_lightning.training.module import RetrievalModule

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
SIZES = {"num_train": 32, "num_val": 8, "num_test": 12}
VOCABULARY = Vocabulary(("a", "red", "blue", "kite", "dog", "and", "two"))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Runs of `fit`, `predict` and `test` on a few scenes."""
    root = tmp_path_factory.mktemp("scenes")
    arguments = ["--config", str(CONFIGS / "scenes.yaml"), "--trainer.default_root_dir", str(root)]
    arguments += [f"--data.source.init_args.{name}={value}" for name, value in SIZES.items()]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    short = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    assert main(["fit", *arguments, *short]) == 0
    weights = str(root / "fit" / "version_0" / "weights")
    for command in ("predict", "test"):
        assert main([command, *arguments, "--ckpt_path", weights]) == 0
    return root


@pytest.fixture(scope="module")
def model(run) -> Retriever:
    return Retriever.from_pretrained(run / "fit" / "version_0" / "weights", device="cpu")


@pytest.fixture(scope="module")
def split():
    return Scenes(image_size=48, **SIZES).read(None, "test")  # as in configs/data/scenes.yaml


def captions_of(split) -> list[str]:
    return [caption for captions in split.captions for caption in captions]


def test_embeddings_are_those_of_predict(run, model, split):
    written = load_file(run / "predict" / "version_0" / "embeddings-0.safetensors")
    # the batches are those of the command line: another padding may change a last digit
    assert torch.equal(model.encode_images(split.images).embeds, written["image_embeds"])
    assert torch.equal(model.encode_texts(captions_of(split)).embeds, written["text_embeds"])


def test_scores_rank_every_query_as_test_does(run, model, split):
    scores = model.score(split.images, captions_of(split))
    image_of_text = torch.arange(12).repeat_interleave(5)
    ranks = streamed_ranks(lambda images, texts: scores[images][:, texts], 12, image_of_text)
    written = read_queries(run / "test" / "version_0" / "queries.parquet")["fused", "own"]
    assert written.image_to_text.rank.tolist() == ranks[0].tolist()
    assert written.text_to_image.rank.tolist() == ranks[1].tolist()


def test_the_readme_example_runs(run, split, tmp_path, monkeypatch):
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "runs").symlink_to(run)
    for name, image in zip(("kite", "dogs"), split.images, strict=False):
        Image.fromarray(image).save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    made: dict = {}
    exec(lines, made)
    assert made["model"].rank("a red kite", made["images"])[0].index in (0, 1)


@pytest.mark.parametrize("config", ["run", "file", "name", "mapping"])
def test_checkpoint_and_exported_weights_are_the_same_model(run, model, config):
    fit = run / "fit" / "version_0"
    given = {
        "run": None,
        "file": fit / "config.yaml",
        "name": "scenes",
        "mapping": yaml.safe_load((fit / "config.yaml").read_text()),
    }
    loaded = Retriever.from_checkpoint(fit / "checkpoints" / "best.ckpt", given[config], device="cpu")
    assert loaded.fingerprint == model.fingerprint
    assert torch.equal(loaded.encode_texts("a red circle").embeds, model.encode_texts(["a red circle"]).embeds)


def test_a_checkpoint_of_an_older_version_is_loaded():
    folder = Path(__file__).parent / "fixtures" / "run_0_1"
    model = Retriever.from_checkpoint(folder / "last.ckpt", folder / "config.yaml", device="cpu")
    assert model.encode_texts("a dog").shape == (1, model.embed_dim)


def test_a_repository_is_loaded_by_its_id(run, model, monkeypatch):
    asked = []

    def download(repository, **options):
        asked.append((repository, options["revision"], options["allow_patterns"]))
        return str(run / "fit" / "version_0" / "weights")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    loaded = Retriever.from_pretrained("somebody/scenes", revision="v1", device="cpu")
    assert loaded.fingerprint == model.fingerprint
    ((repository, revision, patterns),) = asked
    assert (repository, revision) == ("somebody/scenes", "v1")
    assert all(pattern.endswith((".safetensors", ".yaml", ".json", ".txt", ".md")) for pattern in patterns)


def test_an_unavailable_repository_is_one_error(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"'no/such' is no local folder, and the download failed"):
        resolve_repository("no/such", None, ["*.json"])


@pytest.mark.parametrize("kind", ["pairwise", "independent", "local", "global"])
def test_scores_are_those_of_the_model_and_prepared_once(kind, monkeypatch):
    options = {"global_fusion": kind} if kind in ("pairwise", "independent") else {"global_fusion": "none"}
    weight = {"local": 1.0, "global": 0.0}.get(kind, 0.5)
    model = small(FusedSimilarity(embed_dim=8, num_heads=2, local_weight=weight, **options))
    with torch.no_grad():
        images = model.model.encode_images(torch.stack([resized(picture) for picture in pictures(3)]))
        texts = model.model.encode_texts(model.tokenizer(["a red kite", "two dogs and a blue kite", "a"])[0])
        expected = model.model.score(images, texts)
    encoded = model.encode_images(pictures(3)), model.encode_texts(["a red kite", "Two dogs, and a blue kite.", "a"])
    prepared = []
    build = fused.token_set
    monkeypatch.setattr(fused, "token_set", lambda *items, **options: prepared.append(1) or build(*items, **options))
    torch.testing.assert_close(model.score(*encoded), expected)
    count = len(prepared)
    assert count == (0 if kind == "global" else 2)
    first = model.score(encoded[0][1], encoded[1])
    torch.testing.assert_close(first, expected[1:2])
    assert len(prepared) == count + (kind != "global"), "the image alone"
    torch.testing.assert_close(model.similarity(*encoded), encoded[0].embeds @ encoded[1].embeds.T)
    assert (encoded[1].tokens is None) == (kind == "global")


def resized(picture: torch.Tensor) -> torch.Tensor:
    """As the encoder of `small` wants it: squashed."""
    return torch.nn.functional.interpolate(picture[None], (32, 32), mode="bicubic", antialias=True)[0]


def test_numbers_and_devices_that_make_no_sense_are_one_error():
    model = small()
    with pytest.raises(UserError, match="batch_size is 0"):
        model.encode_texts("a", batch_size=0)
    with pytest.raises(UserError, match="k is 0"):
        model.rank("a", pictures(2), k=0)
    with pytest.raises(UserError, match="cannot use device 'nonsense'"):
        model.to("nonsense")


def test_truncated_texts_are_counted():
    with pytest.warns(UserWarning, match="1 texts were truncated to 8 tokens"):
        small().encode_texts(["a " * 9, "a"])


def test_search_results_follow_the_scores():
    model = small()
    images, texts = model.encode_images(pictures(7)), ["a red kite", "two dogs", "a blue dog", "a kite and a dog"]
    scores = model.score(images, texts)
    for query, text in enumerate(texts):
        hits = model.rank(text, images, k=3)
        assert [hit.index for hit in hits] == scores[:, query].argsort(descending=True)[:3].tolist()
        assert [hit.score for hit in hits] == pytest.approx(
            scores[:, query].sort(descending=True)[0][:3].tolist(), abs=1e-6
        )
    of_images = model.rank(images, texts, k=2)
    assert [[hit.index for hit in hits] for hits in of_images] == scores.argsort(1, descending=True)[:, :2].tolist()
    alone = model.rank(pictures(7)[3], texts, k=2)
    assert [hit.index for hit in alone] == [hit.index for hit in of_images[3]]
    assert len(model.rank("a kite", images, k=100)) == 7
    assert all(isinstance(hit, Hit) for hit in model.rank("a kite", list(pictures(7)), k=1))


def test_the_first_stage_chooses_who_gets_the_fused_score():
    model = small()
    images = model.encode_images(pictures(7))
    query = model.encode_texts("a red kite")
    (best,) = model.rank(query, images, k=1, candidates=1)[0]
    assert best.index == int((images.embeds @ query.embeds[0]).argmax())


def test_a_string_is_a_path_where_texts_are_searched(tmp_path):
    model = small()
    path = tmp_path / "a red kite"
    Image.fromarray(pictures(1)[0].permute(1, 2, 0).numpy()).save(path, "PNG")
    texts = model.encode_texts(["a kite", "two dogs"])
    expected = model.score(path, texts)[0].argsort(descending=True).tolist()
    assert [hit.index for hit in model.rank(str(path), texts)] == expected
    assert [hit.index for hit in model.rank(path, ["a kite", "two dogs"])] == expected
    assert [hit.index for hit in model.rank("two dogs", [str(path)])] == [0]


def test_items_of_the_wrong_kind_or_of_another_model_are_refused():
    model, other = small(), small(seed=1)
    images, texts = model.encode_images(pictures(2)), model.encode_texts("a kite")
    with pytest.raises(UserError, match="expected images, got encoded texts"):
        model.similarity(texts, images)
    with pytest.raises(UserError, match="these images were encoded by another model"):
        other.score(images, "a kite")
    with pytest.raises(UserError, match="another model"):
        other.rank("a kite", images)


PLANTED = """
from pathlib import Path

pytestmark = pytest.mark.usefixtures("without_page")
Path(__file__).with_name("ran").touch()
class Tower: ...
"""


@pytest.mark.parametrize("place", ["image_encoder", "text_encoder", "similarity", "tuning"])
@pytest.mark.parametrize("named", ["planted_tower.Tower", "ascl_lightning.data.images.os.system", "os.system"])
def test_a_configuration_from_outside_runs_nothing(run, tmp_path, monkeypatch, place, named):
    (tmp_path / "planted_tower.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = copied_weights(run, tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    planted = {"class_path": named, "init_args": {}}
    if place == "tuning":
        config["model"]["image_encoder"]["init_args"]["tuning"] = planted
    else:
        config["model"][place] = planted
    # of what is about training nothing is read
    config["model"]["optimizer"] = config["trainer"] = {"class_path": "planted_tower.Tower"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="may only name classes of ascl_lightning"):
        Retriever.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def copied_weights(run: Path, root: Path) -> Path:
    folder = root / "weights"
    folder.mkdir()
    for name in ("config.yaml", "model.safetensors"):
        (folder / name).write_bytes((run / "fit" / "version_0" / "weights" / name).read_bytes())
    return folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a configuration"),
        ("", "is not a configuration"),
        ("{model: {a: 1}}", "lacks model.image_encoder"),
        ("{trainer: {}}", "no section `model`"),
        ("a: [", "cannot read the configuration"),
        ("!!python/object/apply:os.system [ls]", "cannot read the configuration"),
        ("model: &a {image_encoder: &b {c: *b}, text_encoder: *b, similarity: *b}", "too large or cyclic"),
        (
            "model: {image_encoder: {class_path: WordTransformer}, text_encoder: {}, similarity: {}}",
            "does not describe",
        ),
    ],
)
def test_a_damaged_configuration_is_one_error(run, tmp_path, text, message):
    folder = copied_weights(run, tmp_path)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        Retriever.from_pretrained(folder)
    assert "\n" not in str(raised.value)


def test_folders_that_hold_no_model_are_one_error(run, tmp_path):
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        Retriever.from_pretrained(tmp_path)
    folder = copied_weights(run, tmp_path)
    (folder / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        Retriever.from_pretrained(folder)
    with pytest.raises(UserError, match="there is no folder"):
        Retriever.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UserError, match="there is no checkpoint"):
        Retriever.from_checkpoint(tmp_path / "nowhere.ckpt", CONFIGS / "scenes.yaml")
    with pytest.raises(UserError, match=r"Retriever\.from_pretrained"):
        Retriever.from_checkpoint(run / "fit" / "version_0" / "weights")
    config = yaml.safe_load((run / "fit" / "version_0" / "config.yaml").read_text())
    config["model"]["similarity"]["init_args"]["embed_dim"] = 64
    with pytest.raises(UserError, match="do not fit the model"):
        Retriever.from_checkpoint(run / "fit" / "version_0" / "checkpoints" / "best.ckpt", config)


def test_lightnings_loading_names_the_method_to_call(run):
    checkpoint = run / "fit" / "version_0" / "checkpoints" / "best.ckpt"
    with pytest.raises(UserError, match=r"call ascl_lightning\.Retriever\.from_checkpoint\(checkpoint, config\)"):
        RetrievalModule.load_from_checkpoint(checkpoint)
    similarity = FusedSimilarity(128, 1, 0.8, normalize_words=True, global_fusion="none")
    towers = {"image_encoder": ConvImageEncoder(image_size=48), "text_encoder": WordConvolution(256)}
    module = RetrievalModule.load_from_checkpoint(
        checkpoint, **towers, similarity=similarity, loss=AsymmetricContrastiveLoss()
    )
    assert isinstance(module, RetrievalModule)
