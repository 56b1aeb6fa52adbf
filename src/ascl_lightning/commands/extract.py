"""`ascl extract`: run the towers over the data once and store their features."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser

from ascl_lightning.commands.base import CommandCLI
from ascl_lightning.data.feature_shards import Precision
from ascl_lightning.data.image_views import ViewKind, views_of
from ascl_lightning.data.regions import RegionStore
from ascl_lightning.data.sources.base import MissingSplitError
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import require_writable_folder
from ascl_lightning.runtime.number_types import NonNegativeInt
from ascl_lightning.training.extraction import FeatureExtraction, SplitExtraction, check_views, foreign_entries

SPLITS = ("train", "val", "test")


class ExtractCLI(CommandCLI):
    """Run the towers over the data once and store their features, to train and test on."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the command's own flags."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--out", type=str, required=True, help="Output folder for the features.")
        parser.add_argument(
            "--splits", type=list[str], default=list(SPLITS), help="Splits to extract. Missing ones are skipped."
        )
        parser.add_argument(
            "--dtype",
            type=Precision,
            default="float16",
            help="Data type of stored features; float32 is exact.",
        )
        parser.add_argument(
            "--regions",
            type=RegionStore | None,
            default=None,
            help="Store with region features instead of images, for RegionEncoder: RegionFolder, RegionTsv or "
            "RegionHdf5.",
        )
        parser.add_argument(
            "--variants",
            type=NonNegativeInt,
            default=1,
            help="Number of T+, T- and (T+)- to make from each training caption if the text encoder is frozen or cut. "
            "Epochs cycle through them.",
        )

        parser.add_argument(
            "--views",
            type=list[ViewKind],
            default=[],
            help="Views of each image to store besides the plain one: flip (mirrored), crops (the four corners and the "
            "center), larger (10/7 of the size). Training draws one view per image and epoch, or reads crops as tokens "
            "(data.source.init_args.crop_tokens).",
        )

    def before_instantiate_classes(self) -> None:
        """Checks the output folder before any tower is built.

        Raises:
            UserError: If the folder is not writable, or contains files that `ascl extract` did not write.
        """
        out = Path(self.config.out)
        require_writable_folder(out)
        foreign = foreign_entries(out)
        if foreign:
            raise UserError(
                f"--out {out}: the folder contains other files than extracted features ({', '.join(foreign[:3])}); "
                f"give a new folder or one written by `ascl extract`"
            )

    def extractions(self) -> list[SplitExtraction]:
        """Builds the extraction of each split.

        Raises:
            UserError: If none of the splits exists.
        """
        model, store = self.model.model.eval(), self.config_init.regions
        regions = None if store is None else store.open(self.datamodule.root)
        views = views_of(self.config.views)
        check_views(model.image_encoder, views)
        found = []
        for split in self.config.splits:
            try:
                self.datamodule.view(split)
            except MissingSplitError:
                continue
            texts = model.text_encoder.is_storable
            # a text tower trained from scratch needs the vocabulary of the training captions in any split
            if split == "train" or (texts and model.text_encoder.spec.tokenizer is None):
                self.datamodule.prepare_texts()
            variants = self.config.variants if split == "train" else 0
            out = Path(self.config.out) / split
            dtype = self.config.dtype
            found.append(
                SplitExtraction(model, self.datamodule, split, out, True, texts, variants, dtype, regions, views)
            )
        if not found:
            raise UserError(f"the data has none of the splits {', '.join(self.config.splits)}; set --splits")
        return found


def run(args: Sequence[str]) -> None:
    """Extracts the features of all splits.

    Args:
        args: The command line, beginning with `extract`.
    """
    cli = ExtractCLI(args)
    extractions = cli.extractions()
    cli.trainer.predict(FeatureExtraction(cli.model.model, extractions), return_predictions=False)
    if cli.trainer.is_global_zero:
        for extraction in extractions:
            extraction.features()
            print(f"{extraction.folder}: complete")
