"""The data module: from a source of images with captions to batches for a model."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySample, AsymmetrySampler
from ascl_lightning.data.augment.caption_corpus import CaptionCorpus
from ascl_lightning.data.augment.image_operations import ImageOperation, check_shares
from ascl_lightning.data.augment.operation import TextOperation
from ascl_lightning.data.augment.pair_mixing import PairMixing
from ascl_lightning.data.bad_images import BadImages
from ascl_lightning.data.batch import ImageSpec, ImageTextBatch, TextSpec
from ascl_lightning.data.collate import Collate, PictureBatch, collate_images
from ascl_lightning.data.datasets import EvalDataset, TextMaker, TrainDataset, TrainItem
from ascl_lightning.data.exclusion import leave_out
from ascl_lightning.data.fingerprint import SplitDigest
from ascl_lightning.data.image_views import PLAIN, ImageView
from ascl_lightning.data.position import Position
from ascl_lightning.data.provenance import Provenance
from ascl_lightning.data.samplers import EpochBatches, EpochSampler, MixedPairs, ResumableBatches, num_steps
from ascl_lightning.data.sources import Source, Split
from ascl_lightning.data.streaming import Stream, StreamBatches, StreamDataset, streamed_spec
from ascl_lightning.data.text import Tokenizer, Vocabulary, build_tokenizer
from ascl_lightning.data.variants.captions import make_variants
from ascl_lightning.data.variants.ladder import Variants
from ascl_lightning.data.views import Augmentation, SplitView
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.number_types import NonNegativeInt, PositiveInt, Seed, UnitInterval
from ascl_lightning.runtime.processes import leave_stopping_to_the_run


class RetrievalDataModule(LightningDataModule):
    """Training pairs with their asymmetry samples, and whole splits for evaluation.

    Random draws are keyed by (seed, epoch, index), so a run gives the same batches with any number of workers, and the
    same samples with any number of ranks. A checkpoint stores the position, and a resumed training continues with the
    next batch (docs/reliability.md#exact-resume). Several ranks need `Trainer(use_distributed_sampler=False)`, as the
    samplers here already split the data between ranks; the command line sets it.

    Args:
        source: Source of images and captions. A streamed one is read sequentially in training, each image once per
            epoch with a caption drawn for it.
        root: Folder of the data; None for a source without files.
        positives: Operations that make T+ (types II and III), one per caption and step. Empty for no T+.
        negatives: Operations that make T- at word level (type I). Empty for no T-.
        image_operations: Operations on training pictures; at most one is applied to a picture, each to its share.
        mixing: Mixes training pairs with others; None: not.
        captions_per_image: None visits every (image, caption) pair once per epoch; a number visits every image that
            often per epoch, each time with another caption.
        captions_together: The captions that an epoch visits of an image share a batch, which encodes an image once
            unless pictures are augmented.
        batch_size: Maximum number of pairs per training step and device; sizes within an epoch differ by at most one.
        eval_batch_size: Images per evaluation batch, each with all its captions.
        augment: Crop training pictures at random. (They are never mirrored, as captions say left and right.)
        bucket_by_length: Group captions of similar length into training batches, which saves padding.
        exclude: File of training pairs to exclude: `triage.parquet` of `ascl triage`, of which the flagged pairs are
            excluded, or any Parquet or JSON lines file with `image_id` and `caption`. Other splits do not change.
        max_bad_share: Share of the training images that may be unreadable; they are replaced and counted. Above it the
            run stops with a list of them. Evaluation does not accept any.
        num_workers: Number of loader processes.
        seed: Seed of the order of pairs and of all draws.
        image_spec: Input of the image encoder; the command line links it to the model.
        text_spec: Input of the text encoder; likewise.
        with_tokens: Whether the model uses local tokens; likewise. If not, stored tokens are not read.

    Raises:
        UserError: If there is no folder `root`.
    """

    def __init__(
        self,
        source: Source,
        root: str | None = None,
        positives: Sequence[TextOperation] = (),
        negatives: Sequence[TextOperation] = (),
        image_operations: Sequence[ImageOperation] = (),
        mixing: PairMixing | None = None,
        captions_per_image: PositiveInt | None = None,
        captions_together: bool = False,
        batch_size: PositiveInt = 64,
        eval_batch_size: PositiveInt = 128,
        augment: bool = False,
        bucket_by_length: bool = False,
        exclude: str | None = None,
        max_bad_share: UnitInterval = 0.01,
        num_workers: NonNegativeInt = 0,
        seed: Seed = 0,
        image_spec: ImageSpec | None = None,
        text_spec: TextSpec | None = None,
        with_tokens: bool = True,
    ) -> None:
        super().__init__()
        check_shares(image_operations)
        self.source = source
        self.root = None if root is None else Path(root)
        if self.root is not None and not self.root.is_dir():
            raise UserError(f"there is no folder '{self.root}': set --data.root to the folder that holds the data")
        self.asymmetry = AsymmetrySampler(positives, negatives)
        self.augmentation = Augmentation(augment, tuple(image_operations))
        self.mixing = mixing
        if mixing is not None:
            mixing.check(made_texts=bool(self.asymmetry), augmented=bool(self.augmentation))
        self.vocabulary: Vocabulary | None = None
        self.image_spec = image_spec
        self.text_spec = text_spec
        self.with_tokens = with_tokens
        self.seed = seed
        self.num_workers = num_workers
        self._corpus: CaptionCorpus | None = None
        self._captions_per_image = captions_per_image
        self._together = captions_together
        if captions_together and not 1 < (captions_per_image or 0) <= batch_size // 2:
            limits = f"from 2 to half of batch_size, {batch_size}"
            raise UserError(f"captions_together needs captions_per_image {limits}; it is {captions_per_image}")
        self._batch_size = batch_size
        self._eval_batch_size = eval_batch_size
        self._bucket_by_length = bucket_by_length
        self._exclude = exclude
        self._excluded: dict[str, Any] | None = None
        self._bad_images = BadImages(max_bad_share)
        self.views: dict[str, SplitView] = {}
        """The splits read so far."""
        self.provenance: Provenance | None = None
        """The data that the current weights were trained and selected on, if known."""
        self._digests: dict[str, SplitDigest] = {}
        self._stream: Stream | None = None
        self._position: Position | None = None
        self._batches_of_epoch = 0

    def setup(self, stage: str) -> None:
        """Reads the splits of a stage; `fit` also mines the vocabulary from the training captions."""
        if stage == "fit":
            self._setup_training()
        splits = {"fit": ("val",), "validate": ("val",), "test": ("test",), "predict": ("test",)}[stage]
        for split in splits:
            self.view(split)

    def view(self, split: str) -> SplitView:
        """One split as the encoders take it; read at first access."""
        if split not in self.views:
            if self.image_spec is None:
                raise ValueError("image_spec is missing: pass image_encoder.spec (the command line links it)")
            read = self.read(split)
            self.views[split] = SplitView(read, self.image_spec, read.features, self.with_tokens)
        return self.views[split]

    def digest(self, split: str) -> SplitDigest:
        """Hashes of the images and captions of a split; computed at first access."""
        if split not in self._digests:
            self._digests[split] = SplitDigest.of(self.view(split).split)
        return self._digests[split]

    def prepare_texts(self) -> None:
        """Mines the vocabulary and the word index, which tokenizer and operations use, from the training captions."""
        if self.vocabulary is None:
            self.vocabulary = self.mine_vocabulary()
        self.text_maker()

    @property
    def operations(self) -> str:
        """Identifies the operations that make texts."""
        return f"{self.asymmetry.positives} {self.asymmetry.negatives}"

    @property
    def streams(self) -> bool:
        """Whether the training split is streamed; known after `setup("fit")`."""
        return self._stream is not None

    def size(self, split: str) -> tuple[int, int]:
        """Numbers of images and captions of a split."""
        plan = self._stream.plan if self._stream is not None and split == "train" else None
        counts = self.view(split).split.num_captions if plan is None else plan.num_captions
        return len(counts), int(sum(counts))

    def read(self, split: str) -> Split:
        """Images and captions of one split, without excluded training pairs."""
        whole = self.source.read(self.root, split)
        if split == "train" and self._exclude is not None:
            whole, self._excluded = leave_out(Path(self._exclude), whole)
        return whole

    def mine_vocabulary(self) -> Vocabulary:
        """The words of the training captions, most frequent first."""
        captions = (caption for captions in self._train_captions() for caption in captions)
        return Vocabulary.mine(captions, None if self.text_spec is None else self.text_spec.vocab_size)

    def text_maker(self, seed: int | None = None) -> TextMaker:
        """Makes T+ and T- of training captions, with the draws of a seed; None: that of the data module."""
        operations = (*self.asymmetry.positives, *self.asymmetry.negatives)
        if self._corpus is None and any(operation.needs_corpus for operation in operations):
            self._corpus = CaptionCorpus(self._train_captions())
        return TextMaker(self.asymmetry, self.vocabulary, self._corpus, self.seed if seed is None else seed)

    def texts_of(self, item: TrainItem) -> AsymmetrySample:
        """The texts of a training item; for stored features, made again as extraction made them."""
        if item.texts is not None:
            return item.texts
        view, stored = self.view("train"), self.view("train").features.texts
        variants = 1 if stored is None else max(1, stored.num_variants)
        captions, place = view.split.captions[item.image_row], item.text_row - view.text_rows(item.image_row).start
        maker = self.text_maker(None if stored is None else stored.seed)
        return maker.make(captions, place, item.image_row, item.epoch % variants, item.text_row)

    def ceiling(self, split: str) -> dict[str, float]:
        """Metrics of a scorer that knows the truth; empty if the source does not know it."""
        return self.source.ceiling(self.root, split)

    def variants(self, split: str, text_rows: Sequence[int], seed: int, wordnet: str | None = None) -> Variants:
        """Variants of some captions of a split, exact ones if the source knows the truth; see `make_variants`."""
        exact = self.source.exact_variants(self.root, split, text_rows, seed)
        return make_variants(self.view(split).split.captions, text_rows, seed, exact=exact, wordnet=wordnet)

    def train_dataloader(self) -> DataLoader[ImageTextBatch]:
        """Batches of pairs, the same number on every rank."""
        if self._stream is not None:
            plan, spec = self._stream.plan, streamed_spec(self.image_spec)
            streamed = StreamDataset(self._stream, spec, self.text_maker(), self.augmentation)
            stretches = StreamBatches(plan, self._batch_size, self.num_workers, *self._rank())
            self._resume(stretches)
            return self._loader(streamed, Collate(None, self.tokenizer()).train, batch_sampler=stretches)
        view = self.view("train")
        dataset = TrainDataset(view, self._pairs(), self.text_maker(), self.augmentation, self.mixing)
        batches = self._batches(dataset.caption_length if self._bucket_by_length else None)
        self._resume(batches)
        return self._loader(dataset, self._collate(view).train, batch_sampler=batches)

    def num_training_batches(self) -> int:
        """Batches of an epoch on each rank, counted without a loader; known after `setup("fit")`."""
        if self._stream is None:
            return len(self._batches())
        return num_steps(len(self._stream.plan), self._batch_size, self._rank()[1])

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
        """Images of any split in order, without augmentation, with all their captions."""
        view, (rank, world_size) = self.view(split), self._rank()
        if len(view.split) < world_size:
            raise UserError(f"the split '{split}' has {len(view.split)} images, too few for {world_size} processes")
        sampler = EpochSampler(len(view.split), self.seed, False, rank, world_size)
        collate = self._collate(view).evaluation
        return self._loader(EvalDataset(view), collate, sampler=sampler, batch_size=self._eval_batch_size)

    def sample_dataloader(self, split: str, count: int) -> DataLoader[ImageTextBatch]:
        """As `evaluation_dataloader`, of `count` random images or all: the same for a seed and any number of ranks."""
        view, (rank, world_size) = self.view(split), self._rank()
        rows = np.random.default_rng(self.seed).permutation(len(view.split))[:count]
        keys = [(int(row), 0) for row in rows[rank::world_size]]
        collate = self._collate(view).evaluation
        return self._loader(EvalDataset(view), collate, sampler=keys, batch_size=self._eval_batch_size)

    def pictures_dataloader(
        self, split: str, batches: Sequence[Sequence[int]], view: ImageView = PLAIN
    ) -> DataLoader[PictureBatch]:
        """The images of given rows of a split in given batches and in one view, without captions."""
        keys = [[(row, 0) for row in batch] for batch in batches]
        return self._loader(EvalDataset(self.view(split), False, view), collate_images, batch_sampler=keys)

    def on_before_batch_transfer(self, batch: ImageTextBatch, dataloader_idx: int) -> ImageTextBatch:
        """Counts unreadable pictures.

        Raises:
            UserError: If they exceed `max_bad_share` of the training images; in evaluation, if there are any.
        """
        if batch.faults and batch.sampling_keys is not None:
            stream, view = self._stream, self.views.get("train")
            total = len(stream.plan) if stream is not None else len(view.split) if view is not None else 0
            self._bad_images.count(batch.faults, total)
        elif batch.faults:
            self._bad_images.refuse([view for view in self.views.values() if view.split.images is not None])
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The vocabulary, which tests without training data need, the provenance and the training's position."""
        carried = {"vocabulary": self.vocabulary, "provenance": self.provenance}
        state: dict[str, Any] = {name: value.state() for name, value in carried.items() if value is not None}
        if self._excluded is not None:
            state["excluded"] = self._excluded
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            state["position"] = asdict(Position.reached(self.trainer, self._batches_of_epoch))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the vocabulary (replacing a mined one), the provenance and the position."""
        if "vocabulary" in state_dict:
            self.vocabulary = Vocabulary.from_state(state_dict["vocabulary"])
        if "provenance" in state_dict:
            self.provenance = Provenance.from_state(state_dict["provenance"])
        if "position" in state_dict:
            self._position = Position(**state_dict["position"])

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the text encoder.

        Raises:
            UserError: If it needs a vocabulary but none was mined or loaded.
        """
        if self.text_spec is None:
            raise ValueError("text_spec is missing: pass text_encoder.spec (the command line links it)")
        if self.text_spec.tokenizer is None and self.vocabulary is None:
            raise UserError(
                "the text encoder reads words of a vocabulary that training mines: "
                "give --ckpt_path of a trained run (it holds the vocabulary)"
            )
        return build_tokenizer(self.text_spec, self.vocabulary)

    def _setup_training(self) -> None:
        shards = self.source.shards(self.root, "train")
        if shards is not None:
            if self.mixing is not None:
                raise UserError("a streamed source holds few pairs at a time: do not stream it, or omit --data.mixing")
            if self._exclude is not None:
                raise UserError("a streamed source has no image ids: do not stream it, or omit --data.exclude")
            if self._captions_per_image != 1:
                raise UserError("a streamed source visits each image once an epoch: set --data.captions_per_image 1")
            self._stream = Stream.count(shards, self.seed)
        else:
            view = self.view("train")
            if self._together and any(weight % 1 for _, weight in view.split.passes):
                raise UserError("captions_together needs sources with whole weights: give whole ones, or omit it")
            view.use_made_texts(self.operations if self.asymmetry else None, bool(self.augmentation))
            if self.mixing is not None and not self.mixing.mixes_features:
                stored = (view.features.images is not None, view.features.texts is not None)
                self.mixing.check_features(*stored, tokens=self.with_tokens)
        num_images, _ = self.size("train")
        if num_images < 2:
            raise UserError(
                f"the training split has {num_images} image(s): contrastive training compares each with others, so "
                f"give two or more"
            )
        self.prepare_texts()
        if self._stream is not None:
            self._digests["train"] = SplitDigest.of_stream(self._stream.captions)
            self._stream.captions.clear()

    def _train_captions(self) -> Sequence[tuple[str, ...]]:
        if self._stream is not None:
            return self._stream.captions
        view = self.views.get("train")
        return (self.read("train") if view is None else view.split).captions

    def _resume(self, batches: ResumableBatches[Any]) -> None:
        """Starts the first epoch after a resume at the position of the checkpoint.

        Lightning starts the workers of a loader before it sets the epoch of the sampler.
        """
        self._batches_of_epoch = len(batches)
        position = self._position
        if position is None or (self.trainer and self.trainer.current_epoch > position.epoch):
            return
        position.check(len(batches), self._rank()[1])
        batches.begin_at(position.epoch, position.batches)

    def _pairs(self) -> MixedPairs:
        split = self.view("train").split
        return MixedPairs(split.passes, split.num_captions, self._captions_per_image, self.seed)

    def _batches(self, lengths: Callable[[int, int], int] | None = None) -> EpochBatches:
        together = self._captions_per_image if self._together and self._captions_per_image else 1
        sampler = EpochSampler(len(self._pairs()) // together, self.seed, True, *self._rank())
        return EpochBatches(sampler, self._batch_size, lengths, together)

    def _collate(self, view: SplitView) -> Collate:
        view.check_images()
        return Collate(view, self.tokenizer(), self._together and not self.augmentation and self.mixing is None)

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: Dataset[Any], collate: Any, **sampling: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=leave_stopping_to_the_run,
            pin_memory=torch.cuda.is_available(),
            # otherwise the loader would draw from the global generator, which would change the model's draws
            generator=torch.Generator().manual_seed(self.seed),
            **sampling,
        )
