"""The command line of training and evaluation: Lightning's own, with what retrieval needs."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning_utilities.core.rank_zero import rank_zero_info

from ascl_lightning.callbacks.embeddings import EmbeddingWriter
from ascl_lightning.callbacks.examples import RetrievedExamples
from ascl_lightning.callbacks.frozen_features import FrozenFeatures
from ascl_lightning.callbacks.results import TestResults
from ascl_lightning.callbacks.search import ReciprocalReranking, TwoStageFrontier
from ascl_lightning.checkpoints import find_checkpoint
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.errors import UserError
from ascl_lightning.modules.retrieval import RetrievalModule

SEARCHES = {"full": None, "two_stage": TwoStageFrontier, "reranked": ReciprocalReranking}
"""What `--retrieval` stands for: the report that a test adds to its metrics."""

# of Lightning, about what is meant to be so
_EXPECTED_WARNINGS = (
    "The dirpath has changed",  # a test has a folder of its own
    ".*in eval mode at the start of training",  # frozen towers
    ".*does not have many workers",
    "Be aware that when using `ckpt_path`, callbacks",  # of training
    ".*LeafSpec.* is deprecated",
    r"It is recommended to use `self.log\('(val|test)/",  # every process ranks the whole split
    "predict returned None",  # features and embeddings go to files
    ".*overrides the configure_model callback",  # which does nothing but for sharded weights: those are not averaged
    ".*recommended to use `self.log.*sync_dist=True",  # metrics of a split are the same on all ranks
)


class OneLineParser(LightningArgumentParser):
    """Mistakes on the command line and in configs become a `UserError`, without a page of usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Called by the parser with what is wrong."""
        raise UserError(message)


class LogConfig(SaveConfigCallback):
    """Keeps the whole configuration: as `config.yaml` beside the run's CSV metrics, as hyperparameters elsewhere.

    Lightning's own would overwrite one file, or fail, where a logger has no folder for each run.
    """

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Called once, on rank 0."""
        text = self.parser.dump(self.config, skip_unset=False)
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                folder = Path(logger.log_dir)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "config.yaml").write_text(text, encoding="utf-8")
            else:
                logger.log_hyperparams(yaml.safe_load(text))


class AsclCLI(LightningCLI):
    """`ascl fit | validate | test | predict`.

    A checkpoint brings weights and what was mined from the training data, never configuration: a config is code.
    """

    def __init__(self, args: Sequence[str], **kwargs: Any) -> None:
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        super().__init__(
            RetrievalModule,
            RetrievalDataModule,
            parser_class=OneLineParser,
            parser_kwargs={"prog": "ascl"},
            seed_everything_default=0,
            trainer_defaults={
                "default_root_dir": "runs",
                # the data module's samplers share out the work themselves
                "use_distributed_sampler": False,
                "callbacks": [TestResults(), RetrievedExamples(), EmbeddingWriter()],
            },
            save_config_callback=LogConfig,
            save_config_kwargs={"save_to_log_dir": False},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=list(args),
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links what the encoders need to the data; adds the callbacks that can be configured."""
        parser.link_arguments("model", "data.image_spec", lambda m: m.model.image_encoder.spec, apply_on="instantiate")
        parser.link_arguments("model", "data.text_spec", lambda m: m.model.text_encoder.spec, apply_on="instantiate")
        parser.link_arguments("model", "data.with_tokens", lambda m: m.uses_tokens, apply_on="instantiate")
        parser.add_lightning_class_args(FrozenFeatures, "frozen_features")
        parser.add_argument(
            "--retrieval",
            type=Literal[tuple(SEARCHES)],
            default="full",
            help="validate and test: also search in two stages at a row of budgets, or re-rank by reciprocal ranks",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/rsum",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
                "checkpoint.enable_version_counter": False,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Reads the list that it is given; Lightning would warn about one that is not the process's own."""
        self.config = parser.parse_args(args)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, and the arguments of the trainer's methods that the methods below set."""
        fixed = {"model", "datamodule", "weights_only"}
        evaluation = fixed | {"dataloaders", "verbose"}
        return {
            "fit": fixed | {"train_dataloaders", "val_dataloaders"},
            "validate": evaluation,
            "test": evaluation,
            "predict": fixed | {"dataloaders", "return_predictions"},
        }

    def instantiate_classes(self) -> None:
        """Builds everything; a value that a class refuses is a mistake in the config."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UserError(f"the config does not work: {error}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Without a logger in the config, metrics go to CSV, in a new folder for each run."""
        config = self._get(self.config_init, "trainer")
        search = SEARCHES[self._get(self.config_init, "retrieval")]
        if self.subcommand in ("validate", "test") and search is not None:
            kwargs["callbacks"] = [*(config.callbacks or []), search()]
        if config.logger is None:
            kwargs["logger"] = CSVLogger(config.default_root_dir, name=self.subcommand)
        return super().instantiate_trainer(**kwargs)

    def fit(self, **kwargs: Any) -> None:
        """Trains, and says how to test."""
        self.trainer.fit(**kwargs, weights_only=True)
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best:
            rank_zero_info(f"Best checkpoint: {best}\nTest it with the same --config and --ckpt_path {best}")

    def validate(self, **kwargs: Any) -> None:
        """Evaluates on the validation split."""
        self.trainer.validate(**kwargs, weights_only=True)

    def test(self, **kwargs: Any) -> None:
        """Evaluates on the test split."""
        self.trainer.test(**kwargs, weights_only=True, verbose=False)

    def predict(self, **kwargs: Any) -> None:
        """Writes embeddings."""
        self.trainer.predict(**kwargs, weights_only=True, return_predictions=False)

    def _parse_ckpt_path(self) -> None:
        """In place of Lightning's, which would take configuration out of the checkpoint."""
        if "subcommand" in self.config:
            command = self.config[self.config.subcommand]
            command.ckpt_path = find_checkpoint(command.ckpt_path, Path(command.trainer.default_root_dir))


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turns what Lightning raises over mistakes in a config or a checkpoint into a `UserError`."""
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise UserError(f"the checkpoint does not fit the model of the config: {error}") from error


def run(args: Sequence[str]) -> None:
    """Runs one of Lightning's commands.

    Raises:
        UserError: For every mistake in the command line, the config, the data or the checkpoint.
    """
    with readable_errors():
        AsclCLI(args)
