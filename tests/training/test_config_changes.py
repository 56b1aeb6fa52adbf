"""Differences of two configurations; the warning and the files are in `test_results.py` and `test_recovery.py`."""

import pytest
import yaml

from ascl_lightning.errors import UserError
from ascl_lightning.models import ConvImageEncoder
from ascl_lightning.training.config_changes import (
    Change,
    changes_of_evaluation,
    changes_of_training,
    config_behind,
    read_changes,
    write_changes,
)

BEFORE = {
    "model": {
        "similarity": {"local_weight": 0.2, "embed_dim": 16},
        "loss": {"class_path": "InfoNCE", "init_args": {"temperature": 0.1}},
        "word_features": None,
        "fold_size": None,
    },
    "data": {"root": "a", "source": {"class_path": "Folder", "init_args": {"split": "x"}}},
    "trainer": {"max_epochs": 3},
    "seed_everything": 0,
}


def changed(**parts):
    return {key: parts.get(key, value) for key, value in BEFORE.items()}


@pytest.fixture
def before(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(BEFORE))
    return path


def test_only_model_changes_count_in_an_evaluation(before):
    model = BEFORE["model"] | {"similarity": {"local_weight": 0.9, "embed_dim": 16}, "fold_size": 1000}
    now = changed(model=model, data={"root": "b"}, seed_everything=1, trainer={})
    assert changes_of_evaluation(before, now) == [Change("model.similarity.local_weight", 0.2, 0.9)]
    assert changes_of_evaluation(before, changed()) == []


def test_a_continued_training_names_model_data_and_seed_but_not_the_trainer(before):
    data = {"root": "b", "source": {"class_path": "Folder", "init_args": {"split": "y"}}}
    now = changed(data=data, seed_everything=1, trainer={"max_epochs": 9})
    assert list(map(str, changes_of_training(before, now))) == [
        "data.root a -> b",
        "data.source.split x -> y",
        "seed_everything 0 -> 1",
    ]


def test_another_class_is_one_change_and_unknown_settings_are_ignored(before):
    model = BEFORE["model"] | {
        "loss": {"class_path": "Other", "init_args": {"margin": 1}},
        "word_features": {"operations": ["ZeroOut"]},
        "new_in_this_version": 5,
    }
    assert changes_of_evaluation(before, changed(model=model)) == [
        Change("model.loss", "InfoNCE", "Other"),
        Change("model.word_features", None, {"operations": ["ZeroOut"]}),
    ]


def test_the_configuration_is_found_next_to_checkpoints_and_exported_weights(tmp_path):
    run = tmp_path / "fit" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "weights").mkdir()
    assert config_behind(run / "checkpoints" / "best.ckpt") is None
    (run / "config.yaml").touch()
    (run / "weights" / "config.yaml").touch()
    assert config_behind(str(run / "checkpoints" / "best.ckpt")) == run / "config.yaml"
    assert config_behind(run / "weights" / "model.safetensors") == run / "weights" / "config.yaml"
    assert config_behind(None) is None


def test_changes_of_one_training_after_another_are_all_kept(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    write_changes(first, tmp_path, [])
    assert list(first.iterdir()) == []
    write_changes(first, tmp_path, [Change("data.root", "a", "b")])
    write_changes(second, first, [Change("data.root", "b", "c")])
    assert [change["now"] for change in read_changes(second)] == ["b", "c"]


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "\x00"])
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        changes_of_evaluation(tmp_path / "config.yaml", {})


def test_names_of_an_older_version_are_no_changes(before):
    tower = {"class_path": "ascl_lightning.models.image_encoders.ConvImageEncoder", "init_args": {"frozen": True}}
    before.write_text(yaml.safe_dump({"model": {"image_encoder": tower}}))
    now = {"class_path": f"{ConvImageEncoder.__module__}.ConvImageEncoder", "init_args": {"tuning": {"frozen": True}}}
    with pytest.warns(FutureWarning, match="tuning"):
        assert changes_of_evaluation(before, {"model": {"image_encoder": now}}) == []
    now["init_args"] = {"tuning": {"frozen": False}}
    with pytest.warns(FutureWarning, match="tuning"):
        changes = changes_of_evaluation(before, {"model": {"image_encoder": now}})
    assert changes == [Change("model.image_encoder.tuning.frozen", True, False)]
