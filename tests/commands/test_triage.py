"""`ascl triage` and training without what it flags, in this process, on small data."""

import json
from pathlib import Path

import pytest
import torch
from pyarrow import parquet
from tests.helpers.datasets import write_karpathy

from ascl_lightning.__main__ import main
from ascl_lightning.curation.triage import KINDS
from ascl_lightning.data.sources import KarpathyJson

TINY = str(Path(__file__).parents[1] / "configs" / "tiny.yaml")
CAPTIONS = [2, 3, 0, 1]


def ascl(command: str, root: Path, *flags: str) -> int:
    runs = ["--trainer.default_root_dir", str(root / "runs")]
    return main([command, "--config", TINY, *runs, "--data.root", str(root), *flags])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on nine training images with 13 captions, the second of which comes twice."""
    root = tmp_path_factory.mktemp("trained")
    file = write_karpathy(root, {"train": 9, "val": 4}, captions=CAPTIONS)
    content = json.loads(file.read_text(encoding="utf-8"))
    first = content["images"][0]["sentences"]
    first[1] = first[0] | {"raw": first[0]["raw"].upper()}  # the same, cleaned
    file.write_text(json.dumps(content), encoding="utf-8")
    assert ascl("fit", root) == 0
    return root


@pytest.fixture(scope="module")
def triaged(trained: Path) -> Path:
    assert ascl("triage", trained, "--ckpt_path", "best", "--out", str(trained / "triage")) == 0
    return trained / "triage"


def test_rows_are_pairs_in_the_order_of_the_split(trained: Path, triaged: Path) -> None:
    rows = parquet.read_table(triaged / "triage.parquet").to_pylist()
    split = KarpathyJson("dataset_flickr8k.json").read(trained, "train")
    pairs = [(name, text) for name, texts in zip(split.image_ids, split.captions, strict=True) for text in texts]
    assert [(row["image_id"], row["caption"]) for row in rows] == pairs
    for row in rows:
        assert len(row["words"]) == len(row["support"]) > 0
        assert set(row["unsupported"]) <= set(row["words"])
        assert bool(row["flags"]) == bool(row["reason"])
        assert all(row[kind] is not None for kind in KINDS)
    assert rows[1]["duplicate"] == 2
    assert "duplicate" in rows[1]["flags"]


def test_the_summary_agrees_with_the_rows(triaged: Path) -> None:
    said = json.loads((triaged / "triage.json").read_text(encoding="utf-8"))
    rows = parquet.read_table(triaged / "triage.parquet").to_pylist()
    assert said["split"] == "train"
    assert said["pairs"] == len(rows)
    assert said["flagged"] == sum(bool(row["flags"]) for row in rows)
    assert set(said["kinds"]) == set(KINDS)
    for kind, of_kind in said["kinds"].items():
        flagged = [row for row in rows if kind in row["flags"]]
        assert of_kind["pairs"] == len(flagged)
        # the table stores single precision; without a threshold no pair is flagged
        assert all(row[kind] >= of_kind["threshold"] - 1e-5 for row in flagged)
        assert [example["caption"] for example in of_kind["examples"]][:1] == (
            [max(flagged, key=lambda row: row[kind])["caption"]] if flagged else []
        )


def test_training_excludes_flagged_pairs_and_records_it(trained: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "triage"
    assert ascl("triage", trained, "--ckpt_path", "best", "--out", str(out), "--flags", "[duplicate]") == 0
    assert "--data.exclude" in capfd.readouterr().out
    file = out / "triage.parquet"
    runs = ["--trainer.default_root_dir", str(tmp_path / "runs"), "--data.root", str(trained)]
    assert main(["fit", "--config", TINY, *runs, "--data.exclude", str(file)]) == 0
    (checkpoint,) = (tmp_path / "runs").glob("**/best.ckpt")
    data = torch.load(checkpoint, weights_only=True)["RetrievalDataModule"]
    assert data["excluded"]["file"] == str(file)
    assert data["excluded"]["pairs"] == 1
    assert len(data["excluded"]["sha256"]) == 64
    # of its 13 pairs the digest of the training captions has 12
    other = torch.load(next((trained / "runs").glob("**/best.ckpt")), weights_only=True)["RetrievalDataModule"]
    assert "excluded" not in other
    assert data["provenance"]["trainings"] != other["provenance"]["trainings"]


def test_another_split_is_triaged_by_its_name(trained: Path, tmp_path: Path, capsys) -> None:
    flags = ["--ckpt_path", "best", "--out", str(tmp_path)]
    assert ascl("triage", trained, *flags, "--split", "val") == 0
    assert json.loads((tmp_path / "triage.json").read_text(encoding="utf-8"))["split"] == "val"
    assert ascl("triage", trained, *flags, "--split", "nowhere") == 2
    assert "there is no split 'nowhere'" in capsys.readouterr().err


def test_a_changed_model_is_warned_of(trained: Path, tmp_path: Path) -> None:
    changed = ["--ckpt_path", "best", "--model.similarity.local_weight", "0.9"]
    said = r"^the model runs with another configuration: model\.similarity\.local_weight 0\.\d+ -> 0\.9 "
    with pytest.warns(UserWarning, match=said):
        assert ascl("triage", trained, *changed, "--out", str(tmp_path)) == 0


def test_a_model_without_word_scores_is_refused(trained: Path, tmp_path: Path, capsys) -> None:
    pooled = ["--model.similarity.local_weight", "0", "--model.similarity.global_fusion", "none"]
    pooled += ["--model.word_features", "null"]
    assert ascl("triage", trained, "--ckpt_path", "best", "--out", str(tmp_path), *pooled) == 2
    assert "local_weight above 0" in capsys.readouterr().err


@pytest.mark.parametrize("variants", ["0", "2"])
def test_triage_and_training_from_stored_features(trained: Path, tmp_path: Path, capsys, variants: str) -> None:
    """Training does not use stored T+ and T-, because they may contain words of excluded pairs."""
    frozen = [
        "--model.image_encoder.init_args.tuning.frozen",
        "true",
        "--model.text_encoder.init_args.tuning.frozen",
        "true",
    ]
    runs = ["--trainer.default_root_dir", str(tmp_path / "runs")]
    given = ["--config", TINY, *frozen, *runs]
    out = ["--out", str(tmp_path / "features"), "--variants", variants]
    assert main(["extract", *given, "--data.root", str(trained), *out]) == 0
    given += ["--data.root", str(tmp_path / "features"), "--data.source", "ExtractedFeatures"]
    assert main(["fit", *given]) == 0
    triaged = ["--ckpt_path", "best", "--out", str(tmp_path / "triage")]
    assert main(["triage", *given, *triaged, "--flags", "[duplicate]"]) == 0
    file = tmp_path / "triage" / "triage.parquet"
    assert [row["flags"] for row in parquet.read_table(file).to_pylist()].count(["duplicate"]) == 1
    assert main(["fit", *given, "--data.exclude", str(file)]) == 0
    newest = max((tmp_path / "runs").glob("**/best.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert torch.load(newest, weights_only=True)["RetrievalDataModule"]["excluded"]["pairs"] == 1
    other = ["--model.text_encoder.init_args.width", "8"]
    assert main(["triage", *given, *triaged, *other]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("ascl: error: ")
