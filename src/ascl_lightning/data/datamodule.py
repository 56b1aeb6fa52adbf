"""Splits, samplers and loaders: from a source of images with captions to batches that a model can take."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from ascl_lightning.data.asymmetry import AsymmetrySampler, TextOperation
from ascl_lightning.data.batch import ImageSpec, ImageTextBatch, TextSpec
from ascl_lightning.data.datasets import Collate, EvalDataset, SplitView, TrainDataset
from ascl_lightning.data.samplers import EpochSampler, PairIndex
from ascl_lightning.data.sources import Source, Split
from ascl_lightning.data.text import Tokenizer, Vocabulary, build_tokenizer
from ascl_lightning.errors import UserError


class RetrievalDataModule(LightningDataModule):
    """Training pairs with their asymmetry samples, and whole splits for evaluation.

    Every random draw is keyed by (seed, epoch, index): the same run gives the same batches on any number of workers,
    and on any number of ranks the same samples. Several ranks need `Trainer(use_distributed_sampler=False)`, which the
    command line sets: the samplers here already share out the work, and evaluate nothing twice.

    Args:
        source: Where images and captions come from.
        root: Folder of the data; None for a source that needs none.
        positives: Operations that make T+ (types II and III), one of them a caption and step. Empty: no T+.
        negatives: Operations that make T- at word level (type I). Empty: none.
        captions_per_image: None: an epoch visits every (image, caption) pair once. A number: an epoch visits every
            image that often, each time with another caption drawn for that epoch.
        batch_size: Pairs a training step, on each device.
        eval_batch_size: Images a batch in evaluation; each brings all its captions.
        augment: Crop training pictures at random. (Nothing is mirrored: captions say left and right.)
        num_workers: Processes that load data.
        seed: Of the order of the pairs and of every draw.
        image_spec: What the image encoder is fed; the command line links it to the model.
        text_spec: What the text encoder is fed; likewise.
    """

    def __init__(
        self,
        source: Source,
        root: str | None = None,
        positives: Sequence[TextOperation] = (),
        negatives: Sequence[TextOperation] = (),
        captions_per_image: int | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 128,
        augment: bool = False,
        num_workers: int = 0,
        seed: int = 0,
        image_spec: ImageSpec | None = None,
        text_spec: TextSpec | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.root = None if root is None else Path(root)
        self.asymmetry = AsymmetrySampler(positives, negatives)
        self.augment = augment
        self.vocabulary: Vocabulary | None = None
        self._captions_per_image = captions_per_image
        self._batch_size = batch_size
        self._eval_batch_size = eval_batch_size
        self._num_workers = num_workers
        self._seed = seed
        self._image_spec = image_spec
        self._text_spec = text_spec
        self._views: dict[str, SplitView] = {}

    def setup(self, stage: str) -> None:
        """Reads the splits that a stage needs; `fit` also mines the vocabulary, from the training captions alone."""
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}[stage]
        for split in splits:
            self.view(split)
        if stage == "fit" and self.vocabulary is None:
            self.vocabulary = self.mine_vocabulary()

    def view(self, split: str) -> SplitView:
        """One split as the encoders want it; read when it is first asked for."""
        if split not in self._views:
            if self._image_spec is None:
                raise ValueError("image_spec is missing: pass image_encoder.spec (the command line links it)")
            self._views[split] = SplitView(self.read(split), self._image_spec)
        return self._views[split]

    def read(self, split: str) -> Split:
        """Images and captions of one split, as the source has them."""
        if self.root is not None and not self.root.is_dir():
            raise UserError(f"there is no folder '{self.root}': set --data.root to the folder that holds the data")
        return self.source.read(self.root, split)

    def mine_vocabulary(self) -> Vocabulary:
        """The words of the training captions, the most frequent first."""
        captions = (caption for captions in self._train_captions() for caption in captions)
        return Vocabulary.mine(captions, None if self._text_spec is None else self._text_spec.vocab_size)

    def ceiling(self, split: str) -> dict[str, float]:
        """Metrics of a scorer that knows the truth, where the source knows it; else nothing."""
        return self.source.ceiling(self.root, split)

    def train_dataloader(self) -> DataLoader[ImageTextBatch]:
        """Batches of pairs; the last one of an epoch may be smaller."""
        view = self.view("train")
        pairs = PairIndex([len(captions) for captions in view.split.captions], self._captions_per_image, self._seed)
        dataset = TrainDataset(view, pairs, self.asymmetry, self.vocabulary, self.augment, self._seed)
        return self._loader(dataset, self._collate(view).train, self._batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[ImageTextBatch]:
        """Images of the validation split with all their captions."""
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> DataLoader[ImageTextBatch]:
        """Images of the test split with all their captions."""
        return self.evaluation_dataloader("test")

    def predict_dataloader(self) -> DataLoader[ImageTextBatch]:
        """As `test_dataloader`."""
        return self.evaluation_dataloader("test")

    def evaluation_dataloader(self, split: str) -> DataLoader[ImageTextBatch]:
        """Images of any split in order, not augmented, with all their captions."""
        view = self.view(split)
        return self._loader(EvalDataset(view), self._collate(view).evaluation, self._eval_batch_size, shuffle=False)

    def state_dict(self) -> dict[str, Any]:
        """What was mined from the training captions, for tests that have no training split."""
        return {} if self.vocabulary is None else {"vocabulary": self.vocabulary.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the vocabulary of the checkpoint, also in place of one mined anew."""
        if "vocabulary" in state_dict:
            self.vocabulary = Vocabulary.from_state(state_dict["vocabulary"])

    def _train_captions(self) -> Sequence[tuple[str, ...]]:
        view = self._views.get("train")
        return (self.read("train") if view is None else view.split).captions

    def _collate(self, view: SplitView) -> Collate:
        if self._text_spec is None:
            raise ValueError("text_spec is missing: pass text_encoder.spec (the command line links it)")
        return Collate(view, self._tokenizer(self._text_spec))

    def _tokenizer(self, spec: TextSpec) -> Tokenizer:
        if spec.tokenizer is None and self.vocabulary is None:
            raise UserError(
                "the text encoder reads words of a vocabulary that training mines: "
                "give --ckpt_path of a trained run (it holds the vocabulary)"
            )
        return build_tokenizer(spec, self.vocabulary)

    def _loader(self, dataset: Any, collate: Any, batch_size: int, shuffle: bool) -> DataLoader[ImageTextBatch]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        make = partial(DataLoader, num_workers=self._num_workers, persistent_workers=self._num_workers > 0)
        return make(
            dataset,
            batch_size=batch_size,
            sampler=EpochSampler(len(dataset), self._seed, shuffle, rank, world_size),
            collate_fn=collate,
            # without a generator of its own a loader draws from the global one, and so moves the model's draws
            generator=torch.Generator().manual_seed(self._seed),
        )
