"""Base class of the commands that evaluate a split with a trained model."""

from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser

from ascl_lightning.cli import readable_errors
from ascl_lightning.commands.base import CommandCLI
from ascl_lightning.data.text import clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.runtime.checkpoints import DATA_MODULE, find_checkpoint
from ascl_lightning.training.callbacks.checkpoint_io import AtomicCheckpointIO
from ascl_lightning.training.callbacks.frozen_features import check_features
from ascl_lightning.training.encoding import encode_split

CKPT_PATH_HELP = "Checkpoint to load: a path, or best or last of the newest run under --trainer.default_root_dir."


class TrainedCLI(CommandCLI):
    """Reads the same configs as training, and the weights of a checkpoint."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--ckpt_path`."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str, required=True, help=CKPT_PATH_HELP)

    def load(self) -> str:
        """Loads the checkpoint's weights into the model, and its vocabulary into the data module.

        Returns:
            Path of the checkpoint.

        Raises:
            UserError: If the checkpoint is missing or of another model, or no score of the model reads words.
        """
        path = find_checkpoint(self.config.ckpt_path, Path(self.config.trainer.default_root_dir))
        assert path is not None
        self.warn_of_changes(path)
        if not self.model.model.similarity.uses_words:
            raise UserError(
                "no score of this model reads single words: set similarity.local_weight above 0 "
                "and similarity.whole_texts to false, and train"
            )
        with readable_errors():
            content = AtomicCheckpointIO().load_checkpoint(path)
            self.model.load_state_dict(content["state_dict"])
        self.datamodule.load_state_dict(content.get(DATA_MODULE, {}))
        return path

    def encode(self, split: str) -> tuple[Gallery, list[str]]:
        """Encodes a split.

        Returns:
            The encoded split, and its captions, cleaned, in the order of the encoded texts.

        Raises:
            UserError: If the split is missing, an image cannot be read, or stored features are of other towers.
        """
        view = self.datamodule.view(split)
        check_features(self.datamodule, self.model.model)
        gallery = encode_split(self.trainer, self.model, self.datamodule, split)
        return gallery, [clean_caption(caption) for of_image in view.split.captions for caption in of_image]
