"""Streams from archives: every image once an epoch, on any number of ranks and workers, and again with the seed."""

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.helpers.datasets import write_picture
from tests.helpers.layouts import add_member, write_hub_arrow, write_image_folder, write_shards

from ascl_lightning.data import streaming
from ascl_lightning.data.augment.image_operations import SideBySide
from ascl_lightning.data.augment.negatives import ShuffleWords
from ascl_lightning.data.augment.pair_mixing import MixGen
from ascl_lightning.data.augment.positives import AppendOtherCaption, FirstHalf, JoinCaptions, RandomSpan
from ascl_lightning.data.batch import PixelSpec, TextSpec
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import Source, WebDataset
from ascl_lightning.data.streaming import StreamBatches, StreamPlan
from ascl_lightning.errors import UserError

PIXELS = PixelSpec(16, (0.5,) * 3, (0.5,) * 3)
WORDS = TextSpec(max_length=16, vocab_size=200)
TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"


def content(number: int) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """Images of one, two, three, ... captions, and every fifth without any."""
    counts = [i % 5 for i in range(number)]
    train = [(f"{i:04d}.png", tuple(f"image {i} caption {j}" for j in range(count))) for i, count in enumerate(counts)]
    return {"train": train, "val": [("v.png", ("a caption",))]}


def datamodule(root: Path, source: Source, **arguments) -> RetrievalDataModule:
    arguments = {"captions_per_image": 1, "batch_size": 4, "image_spec": PIXELS, "text_spec": WORDS} | arguments
    return RetrievalDataModule(source, str(root), **arguments)


def streamed(root: Path, number: int, **arguments) -> RetrievalDataModule:
    source = write_shards(root, content(number), per_shard=7)
    made = datamodule(root, WebDataset(source.patterns, "json", streaming=True), **arguments)
    made.setup("fit")
    return made


def on_rank(made: RetrievalDataModule, rank: int, world_size: int) -> RetrievalDataModule:
    made._rank = lambda: (rank, world_size)
    return made


def samples(loader, epoch: int) -> list[tuple[int, int, int, bytes]]:
    """Image, caption, key and pixels of everything that an epoch brings, in order."""
    loader.batch_sampler.sampler.set_epoch(epoch)
    found = []
    for batch in loader:
        rows = zip(batch.image_ids.tolist(), batch.text_ids.tolist(), batch.sampling_keys.tolist(), strict=True)
        found += [(*row, picture.numpy().tobytes()) for row, picture in zip(rows, batch.images, strict=True)]
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_image_once_an_epoch_and_the_same_again(tmp_path, workers, world_size):
    made = streamed(tmp_path, 43, num_workers=workers, positives=[FirstHalf(), JoinCaptions()])
    visited = [row for row in range(43) if row % 5]
    loaders = [on_rank(made, rank, world_size).train_dataloader() for rank in range(world_size)]
    epochs = [[samples(loader, epoch) for loader in loaders] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(row[0] for of_rank in epoch for row in of_rank) == visited
    again = [samples(on_rank(made, rank, world_size).train_dataloader(), 1) for rank in range(world_size)]
    assert again == epochs[1]
    assert [row[0] for row in epochs[0][0]] != [row[0] for row in epochs[1][0]]
    # an image comes with the same caption and key on any rank and worker
    alone = {row[:3] for row in samples(on_rank(streamed(tmp_path, 43), 0, 1).train_dataloader(), 2)}
    assert {row[:3] for of_rank in epochs[2] for row in of_rank} == alone


@pytest.mark.parametrize("operation", [AppendOtherCaption(), RandomSpan()])
def test_positives_are_the_same_on_any_number_of_ranks_and_workers(tmp_path, operation):
    def positives(workers: int, world_size: int) -> dict[int, tuple[str, str]]:
        made = streamed(tmp_path, 23, num_workers=workers, positives=[operation])
        loaders = [on_rank(made, rank, world_size).train_dataloader() for rank in range(world_size)]
        keys = [(loader.dataset, key) for loader in loaders for batch in loader.batch_sampler for key in batch]
        items = [dataset[key] for dataset, key in keys]
        return {item.image_row: (item.texts.text, item.texts.positive.text) for item in items}

    found = positives(0, 1)
    assert positives(2, 3) == found
    if isinstance(operation, AppendOtherCaption):
        for row, (text, positive) in found.items():
            # "image 7 caption 2 image 11 caption 0"
            assert positive.startswith(f"{text} image ")
            assert positive.split()[5] != str(row)


def test_ranks_stay_in_step(tmp_path):
    made = streamed(tmp_path, 43, batch_size=3)
    loaders = [on_rank(made, rank, 3).train_dataloader() for rank in range(3)]
    sizes = [[len(batch.image_ids) for batch in loader] for loader in loaders]
    # 34 images on three ranks: shares of 11, 11 and 12, so four steps of two or three
    assert [len(of_rank) for of_rank in sizes] == [4, 4, 4] == [len(loader) for loader in loaders]
    assert {size for of_rank in sizes for size in of_rank} == {2, 3}


def test_streaming_and_indexing_read_the_same(tmp_path):
    made = streamed(tmp_path, 23)
    split = made.source.read(tmp_path, "train")
    captions = [caption for of_image in split.captions for caption in of_image]
    pictures = {}
    for batch in made.train_dataloader():
        for row, text, picture in zip(batch.image_ids.tolist(), batch.text_ids.tolist(), batch.images, strict=True):
            assert captions[text].startswith(f"image {row} ")
            pictures[row] = picture
    whole = datamodule(tmp_path, WebDataset(made.source.patterns, "json"))
    whole.setup("fit")
    assert split.image_ids == [f"{row:04d}" for row in range(23)]
    for row, picture in pictures.items():
        assert torch.equal(picture, torch.from_numpy(whole.view("train").picture(row)))
    assert whole.vocabulary == made.vocabulary


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("write", [write_hub_arrow, write_image_folder])
def test_a_hub_data_set_streams(tmp_path, write, workers):
    """Of many parts, and of one."""
    source = write(tmp_path, content(23))
    source.image_id, source.streaming = None, True
    made = datamodule(tmp_path, source, num_workers=workers)
    made.setup("fit")
    for epoch in range(2):
        rows = [row[0] for row in samples(made.train_dataloader(), epoch)]
        assert sorted(rows) == [row for row in range(23) if row % 5]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=6).filter(lambda s: sum(map(sum, s)) > 0),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 6),
)
def test_places_of_an_epoch(counts, world_size, workers, batch_size):
    plan = StreamPlan([np.array(of_shard, np.int64) for of_shard in counts], seed=1)
    flat = [count for of_shard in counts for count in of_shard]
    assert [row for *_, row in sorted(plan.images_from(0, 5))] == [row for row, count in enumerate(flat) if count]
    if len(plan) < world_size:
        return
    ranks = [list(StreamBatches(plan, batch_size, workers, rank, world_size)) for rank in range(world_size)]
    places = [key.place for of_rank in ranks for batch in of_rank for key in batch]
    assert sorted(places) == list(range(len(plan)))
    assert len({len(of_rank) for of_rank in ranks}) == 1
    assert all(batch for of_rank in ranks for batch in of_rank)


def test_shards_are_opened_once_by_one_worker_each(tmp_path, monkeypatch):
    """Reading goes forwards: with one worker each of the 7 shards is opened once an epoch."""
    monkeypatch.setattr(streaming, "WINDOW", 5)
    made = streamed(tmp_path, 43)
    opened = Counter()
    for shard in made._stream.shards:
        original = shard.items
        monkeypatch.setattr(shard, "items", lambda start, s=shard, o=original: (opened.update([s.name]), o(start))[1])
    loader = made.train_dataloader()
    rows = [row[0] for row in samples(loader, 0)]
    assert set(opened.values()) == {1}
    assert len(opened) == 7
    assert rows != sorted(rows)
    assert len(loader.dataset._held) == 0


def test_bad_pictures_are_replaced_and_counted(tmp_path):
    write_shards(tmp_path, content(20), per_shard=10)
    with tarfile.open(tmp_path / "train-000002.tar", "w") as archive:
        for i in range(3):
            add_member(archive, f"bad{i}.jpg", b"<html>not found</html>")
            add_member(archive, f"bad{i}.json", json.dumps({"captions": ["broken"]}).encode())
    source = WebDataset({"train": "train-*.tar", "val": "val-*.tar"}, "json", streaming=True)
    made = datamodule(tmp_path, source, max_bad_share=0.5)
    made.setup("fit")
    batches = list(made.train_dataloader())
    assert sum(len(batch.image_ids) for batch in batches) == 16 + 3
    faults = [fault for batch in batches for fault in batch.faults]
    assert sorted(set(faults)) == [
        f"{tmp_path}/train-000002.tar, bad{i}.jpg: not a picture of a known kind (JPEG, PNG, WEBP, GIF, BMP, TIFF)"
        for i in range(3)
    ]
    assert {row for batch in batches for row in batch.image_ids.tolist()} <= set(range(20))


def test_operations_draw_other_pictures_from_what_is_held(tmp_path):
    made = streamed(tmp_path, 23, image_operations=[SideBySide(1.0)], negatives=[ShuffleWords()])
    assert sum(len(batch.image_ids) for batch in made.train_dataloader()) == 18


def test_streams_need_one_caption_an_image(tmp_path):
    with pytest.raises(UserError, match="captions_per_image 1"):
        streamed(tmp_path, 5, captions_per_image=None)


def test_pairs_of_a_stream_cannot_be_mixed(tmp_path):
    with pytest.raises(UserError, match=r"do not stream it, or omit --data\.mixing"):
        streamed(tmp_path, 5, mixing=MixGen())


def test_pairs_of_a_stream_cannot_be_excluded(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"image_id": "0001", "caption": "image 1 caption 0"}')
    with pytest.raises(UserError, match=r"do not stream it, or omit --data\.exclude"):
        streamed(tmp_path, 5, exclude=str(tmp_path / "list.jsonl"))


def test_a_shard_that_changed_is_an_error(tmp_path):
    made = streamed(tmp_path, 20)
    for path in tmp_path.glob("train-*.tar"):
        with tarfile.open(path, "w") as archive:
            write_picture(tmp_path / "x.png", 0)
            add_member(archive, "x.png", (tmp_path / "x.png").read_bytes())
    with pytest.raises(UserError, match="changed while it was read"):
        list(made.train_dataloader())


def test_pictures_are_what_the_archive_holds(tmp_path):
    made = streamed(tmp_path, 9)
    for batch in made.train_dataloader():
        for row, picture in zip(batch.image_ids.tolist(), batch.images, strict=True):
            with Image.open(tmp_path / "pictures" / f"{row:04d}.png") as image:
                assert abs(np.asarray(image).mean() - picture.float().mean()) < 40


# notes what each rank trains on, epoch by epoch
NOTED = """
import json, sys
from pathlib import Path
from ascl_lightning.__main__ import main
from ascl_lightning.training.module import RetrievalModule

step, folder = RetrievalModule.training_step, Path(sys.argv.pop())

def training_step(self, batch, batch_idx):
    with (folder / f"{self.global_rank}.jsonl").open("a") as file:
        rows = zip(batch.image_ids.tolist(), batch.text_ids.tolist(), batch.sampling_keys.tolist())
        file.write(json.dumps([self.current_epoch, *rows]) + "\\n")
    return step(self, batch, batch_idx)

RetrievalModule.training_step = training_step
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["webdataset", "hub"])
def test_two_real_ranks_with_two_workers_each(tmp_path: Path, kind: str) -> None:
    visited = [row for row in range(43) if row % 5]
    written = content(43) | {"val": [("v.png", ("one",)), ("w.png", ("two",))]}
    if kind == "webdataset":
        write_shards(tmp_path, written, per_shard=7)
        shards = '{"train": "train-*.tar", "val": "val-*.tar"}'
        source = ["WebDataset", "--data.source.shards", shards, "--data.source.captions", "json"]
    else:
        write_image_folder(tmp_path, written)
        source = ["HubDataset", "--data.source.path", "hub", "--data.source.cache_dir", str(tmp_path / "cache")]
        source += ["--data.source.splits", '{"val": "validation"}']
    (tmp_path / "noted.py").write_text(NOTED)
    runs = [noted_run(tmp_path, name, source) for name in ("first", "again")]
    assert runs[0] == runs[1]
    assert runs[0].keys() == {0, 1, 2}
    for of_ranks in runs[0].values():
        assert [len(of_rank) for of_rank in of_ranks] == [17, 17]
        assert sorted(image for of_rank in of_ranks for image, *_ in of_rank) == visited
    assert runs[0][0] != runs[0][1]


def noted_run(root: Path, name: str, source: list[str]) -> dict[int, list[list[list[int]]]]:
    """What the two ranks of a training saw: for each epoch a list a rank."""
    folder = root / name
    folder.mkdir()
    arguments = [
        *("fit", "--config", str(TINY), "--data.source", *source, "--data.source.streaming", "true"),
        *("--data.root", str(root), "--data.num_workers", "2", "--trainer.default_root_dir", str(folder)),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
        *("--trainer.max_epochs", "3", str(folder)),
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*launch, str(root / "noted.py"), *arguments], env=environment, capture_output=True, text=True, timeout=400
    )
    assert ran.returncode == 0, ran.stderr
    epochs: dict[int, list[list[list[int]]]] = {}
    for rank in range(2):
        for line in (folder / f"{rank}.jsonl").read_text().splitlines():
            epoch, *rows = json.loads(line)
            epochs.setdefault(epoch, [[], []])[rank] += rows
    return epochs


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 4, 7])
def test_a_stream_resumes_inside_a_window(tmp_path, monkeypatch, workers, taken):
    """With pictures that take another one from those that are held: what is held must be the same."""
    monkeypatch.setattr(streaming, "WINDOW", 13)
    arguments = {"num_workers": workers, "positives": [JoinCaptions()], "image_operations": [SideBySide(0.9)]}
    loader = streamed(tmp_path, 43, **arguments).train_dataloader()
    whole = samples(loader, 3)
    resumed = streamed(tmp_path, 43, **arguments)
    steps = len(loader)
    position = {"epoch": 3, "batches": taken, "batches_of_epoch": steps, "world_size": 1}
    resumed.load_state_dict(resumed.state_dict() | {"position": position})
    rest = resumed.train_dataloader()
    assert len(rest) == steps
    assert samples(rest, 0) == whole[sum(len(batch) for batch in list(loader.batch_sampler)[:taken]) :]
