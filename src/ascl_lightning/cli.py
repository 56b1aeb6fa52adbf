"""`ascl fit | validate | test | predict`: LightningCLI with the callbacks, flags and error messages of retrieval."""

import atexit
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import get_loader, set_loader
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.asymmetry_shares import AsymmetryShares
from ascl_lightning.evaluation.embeddings import EmbeddingWriter
from ascl_lightning.evaluation.evidence import Evidence
from ascl_lightning.evaluation.hard_negatives import HardNegativeResults
from ascl_lightning.evaluation.leaks.guard import LeakGuard
from ascl_lightning.evaluation.leaks.record import RecordProvenance
from ascl_lightning.evaluation.page.page import write_report
from ascl_lightning.evaluation.query_bank import HubnessBank
from ascl_lightning.evaluation.report_card.callback import ReportCard
from ascl_lightning.evaluation.results import EvaluationResults
from ascl_lightning.evaluation.run_files import RESULTS
from ascl_lightning.evaluation.two_stage_frontier import TwoStageFrontier
from ascl_lightning.evaluation.wandb.dashboard import Dashboard
from ascl_lightning.parsing.early_checks import check_number
from ascl_lightning.parsing.help_text import ShowAllHelp, arranged_help
from ascl_lightning.parsing.messages import plain_message
from ascl_lightning.renamed import current_config
from ascl_lightning.runtime.checkpoints import Continuation, find_checkpoint
from ascl_lightning.runtime.distributed import leave_group
from ascl_lightning.runtime.files import UNWRITABLE, UnwritableError, require_writable_folder
from ascl_lightning.runtime.number_types import PositiveFloat
from ascl_lightning.runtime.processes import RankWatch
from ascl_lightning.runtime.yaml_files import check_yaml, describe_yaml_error
from ascl_lightning.training.accessors import callbacks_of, is_fast_dev_run, run_folder
from ascl_lightning.training.callbacks.checkpoint_io import AtomicCheckpointIO
from ascl_lightning.training.callbacks.export import WeightsExport
from ascl_lightning.training.callbacks.frozen_features import FrozenFeatures
from ascl_lightning.training.callbacks.keyed_draws import KeyedDraws
from ascl_lightning.training.callbacks.non_finite import NonFiniteSteps
from ascl_lightning.training.callbacks.progress import TrainingProgress
from ascl_lightning.training.callbacks.recovery import RecoveryCheckpoints
from ascl_lightning.training.callbacks.terminal import ProgressLines, RunSummary, silence_notices
from ascl_lightning.training.loggers import (
    LogConfig,
    keep_pictures_with_runs,
    loggers_of_run,
    record_offline_if_unreachable,
)
from ascl_lightning.training.module import RetrievalModule

SEARCHES = {"full": None, "two_stage": TwoStageFrontier}
"""Callback that each value of `--retrieval` adds to an evaluation."""

# Lightning's warnings about things that are intended here
_EXPECTED_WARNINGS = (
    "The dirpath has changed",  # each test writes to a new folder
    ".*in eval mode at the start of training",  # frozen towers
    ".*does not have many workers",
    "Be aware that when using `ckpt_path`, callbacks",  # evaluation does not use training callbacks
    ".*LeafSpec.* is deprecated",
    r"It is recommended to use `self.log\('(val|test)/",  # every rank evaluates the whole split
    "predict returned None",  # features and embeddings are written to files
    ".*overrides the configure_model callback",  # it only matters for sharded weights, which are not averaged
    ".*your dataloader is not resumable",  # the data module resumes inside an epoch
    "Checkpoint directory .* exists and is not empty",  # a resumed run
)


_yaml = get_loader("yaml")


def _checked_yaml(text: str) -> Any:
    check_yaml(text)
    return current_config(_yaml(text))


set_loader("yaml", _checked_yaml)


class OneLineParser(LightningArgumentParser):
    """Raises a `UserError` of one line for a mistake in flags or configs, instead of printing the usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Called by the parser with an error message."""
        raise UserError(plain_message(message))

    def format_help(self, *args: Any) -> str:
        """Help with the project's own flags; `--help_all` adds Lightning's."""
        return arranged_help(super().format_help(*args), everything=False)


class AsclCLI(LightningCLI):
    """`ascl fit | validate | test | predict`.

    The configuration is never read from a checkpoint, which holds only weights and the state of training and data.
    """

    def __init__(self, args: Sequence[str], **kwargs: Any) -> None:
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        silence_notices()
        atexit.register(leave_group)
        super().__init__(
            RetrievalModule,
            RetrievalDataModule,
            parser_class=OneLineParser,
            seed_everything_default=0,
            trainer_defaults={
                "default_root_dir": "runs",
                # the data module's samplers already divide the data among the ranks
                "use_distributed_sampler": False,
                "callbacks": [
                    KeyedDraws(),
                    RecordProvenance(),
                    RunSummary(),
                    TrainingProgress(),
                    EvaluationResults(),
                    HardNegativeResults(),
                    Evidence(),
                    EmbeddingWriter(),
                    WeightsExport(),
                    AsymmetryShares(),
                    Dashboard(),
                ],
            },
            save_config_callback=LogConfig,
            save_config_kwargs={"save_to_log_dir": False},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=list(args),
            **({"parser_kwargs": {"prog": "ascl"}} | kwargs),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links the encoders' input specs to the data, and adds flags and configurable callbacks."""
        parser.link_arguments("model", "data.image_spec", lambda m: m.model.image_encoder.spec, apply_on="instantiate")
        parser.link_arguments("model", "data.text_spec", lambda m: m.model.text_encoder.spec, apply_on="instantiate")
        parser.link_arguments("model", "data.with_tokens", lambda m: m.uses_tokens, apply_on="instantiate")
        parser.add_lightning_class_args(FrozenFeatures, "frozen_features")
        parser.add_lightning_class_args(ReportCard, "report_card")
        parser.add_lightning_class_args(HubnessBank, "hubness")
        parser.add_argument("--help_all", action=ShowAllHelp, help="Show this help with Lightning's flags and exit.")
        parser.add_argument(
            "--retrieval",
            type=Literal[tuple(SEARCHES)],
            default="full",
            help="Also evaluate two-stage search at several shortlist lengths.",
        )
        parser.add_argument(
            "--allow_leak",
            "--allow-leak",
            action="store_true",
            help="Test even if the model was trained or selected on the test split, and mark the results as leaked.",
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="Resume the newest run under --trainer.default_root_dir from its last checkpoint. Without a "
            "checkpoint, training starts from scratch.",
        )
        parser.add_argument(
            "--timeout",
            type=PositiveFloat,
            default=600.0,
            help="Seconds that ranks wait for each other in a collective operation before the run ends.",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(RecoveryCheckpoints, "recovery")
        parser.add_lightning_class_args(NonFiniteSteps, "non_finite")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/rsum",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses `args`; Lightning's own method warns if they are not those of the process."""
        try:
            self.config = parser.parse_args(args)
        except yaml.YAMLError as error:
            raise UserError(f"the config cannot be read{describe_yaml_error(error)}") from error
        command = self.config.get(self.config.get("subcommand"), self.config)
        check_number("seed_everything", command.get("seed_everything"))
        for name, value in vars(command.get("trainer")).items():
            check_number(f"trainer.{name}", value)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, each with the arguments of the trainer's method that are not flags."""
        fixed = {"model", "datamodule", "weights_only"}
        evaluation = fixed | {"dataloaders", "verbose"}
        return {
            "fit": fixed | {"train_dataloaders", "val_dataloaders"},
            "validate": evaluation,
            "test": evaluation,
            "predict": fixed | {"dataloaders", "return_predictions"},
        }

    def before_instantiate_classes(self) -> None:
        """Checks that the run's folders are writable, before any tower is built."""
        if self.subcommand is None:
            return
        command = self.config[self.subcommand]
        if command.trainer.fast_dev_run:
            return
        require_writable_folder(Path(command.trainer.default_root_dir, self.subcommand))
        for folder in _log_folders(command.trainer.logger):
            require_writable_folder(folder)
        if self.subcommand == "fit" and command.checkpoint.dirpath is not None:
            require_writable_folder(Path(command.checkpoint.dirpath))

    def instantiate_classes(self) -> None:
        """Builds all classes; a `ValueError` of a constructor is reported as a mistake in the config."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UserError(f"the config is invalid: {error}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds a CSV logger, atomic checkpoints, progress lines without a terminal, and the collective timeout."""
        config = self._get(self.config_init, "trainer")
        kwargs["callbacks"] = [*(config.callbacks or []), *self._callbacks_of_command()]
        # `RunSummary` logs the model's size in one line instead
        kwargs["enable_model_summary"] = bool(config.enable_model_summary)
        own_bar = any(isinstance(callback, ProgressBar) for callback in kwargs["callbacks"])
        if config.enable_progress_bar is not False and not own_bar and not sys.stdout.isatty():
            kwargs["enable_progress_bar"] = False
            kwargs["callbacks"].append(ProgressLines())
        plugins = config.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        root = Path(config.default_root_dir)
        kwargs["logger"] = loggers_of_run(config.logger, root, str(self.subcommand), self._resumed)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError) as error:
            raise UserError(f"the trainer's config is invalid: {error}") from error
        except TypeError as error:
            if not str(error).startswith("`devices`"):
                raise
            raise UserError(f"--trainer.devices: {error}") from error
        if isinstance(config.strategy, str) and hasattr(trainer.strategy, "_timeout"):
            trainer.strategy._timeout = timedelta(seconds=self._get(self.config_init, "timeout"))
        if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
            RankWatch(trainer.strategy.launcher).start()
        record_offline_if_unreachable(trainer.loggers)
        keep_pictures_with_runs(trainer.loggers)
        return trainer

    def _callbacks_of_command(self) -> list[Callback]:
        search = SEARCHES[self._get(self.config_init, "retrieval")]
        searches: list[Callback] = [search()] if self.subcommand in ("validate", "test") and search is not None else []
        if self.subcommand == "test":
            return [LeakGuard(self._get(self.config_init, "allow_leak")), *searches]
        return searches

    def fit(self, **kwargs: Any) -> None:
        """Trains, then logs how to test the best checkpoint."""
        if self._resumed is not None:
            kwargs["ckpt_path"] = str(self._resumed.checkpoint)
        self.trainer.fit(**kwargs, weights_only=True)
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best:
            rank_zero_info(f"Best checkpoint: {best}\nTest it with the same --config and --ckpt_path {best}")
        elif not is_fast_dev_run(self.trainer):
            rank_zero_warn("no validation ran, so this run has no best checkpoint and no exported weights")

    def validate(self, **kwargs: Any) -> None:
        """Evaluates on the validation split."""
        self.trainer.validate(**kwargs, weights_only=True, verbose=False)
        self._write_report()

    def test(self, **kwargs: Any) -> None:
        """Evaluates on the test split."""
        self.trainer.test(**kwargs, weights_only=True, verbose=False)
        self._write_report()

    def predict(self, **kwargs: Any) -> None:
        """Writes embeddings."""
        self.trainer.predict(**kwargs, weights_only=True, return_predictions=False)

    def _write_report(self) -> None:
        """Writes `report.html` after all callbacks have written their files."""
        folder = None if is_fast_dev_run(self.trainer) else run_folder(self.trainer)
        if folder is not None and self.trainer.is_global_zero and (folder / RESULTS).is_file():
            page = write_report(folder)
            rank_zero_info(f"Report: {page}")
            for dashboard in callbacks_of(self.trainer, Dashboard):
                dashboard.send_page(self.trainer, page)

    def _parse_ckpt_path(self) -> None:
        """Resolves `--ckpt_path` and `--resume`; Lightning's method would read configuration from the checkpoint."""
        self._resumed: Continuation | None = None
        if "subcommand" not in self.config:
            return
        command = self.config[self.config.subcommand]
        root = Path(command.trainer.default_root_dir)
        command.ckpt_path = find_checkpoint(command.ckpt_path, root)
        training = self.config.subcommand == "fit"
        if training and command.ckpt_path and command.ckpt_path.endswith(".safetensors"):
            raise UserError(f"{command.ckpt_path}: training cannot resume from weights alone; give a .ckpt of the run")
        if command.allow_leak and self.config.subcommand != "test":
            raise UserError("--allow_leak: only `ascl test` checks for leaks; remove the flag")
        if command.resume:
            if not training or command.ckpt_path:
                raise UserError("--resume: only for `ascl fit`, and without --ckpt_path")
            self._resumed = Continuation.find(root)
            rank_zero_info(_announced(self._resumed, root))
            # not stored in the run's config.yaml, which other commands read too
            command.resume = False


def _log_folders(loggers: Any) -> Iterator[Path]:
    """The `save_dir` of each configured logger."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        folder = getattr(logger, "init_args", {}).get("save_dir")
        if folder is not None:
            yield Path(folder)


def _announced(resumed: Continuation | None, root: Path) -> str:
    if resumed is None:
        return f"No run under '{root}' has a checkpoint: training starts from scratch"
    skipped = "".join(f"Skipped: {fault}\n" for fault in resumed.passed_over)
    return f"{skipped}Resuming {resumed.run} from {resumed.checkpoint.name}"


@contextmanager
def readable_errors() -> Iterator[None]:
    """Converts Lightning's exceptions for mistakes in a config or a checkpoint to `UserError`."""
    try:
        yield
    except SystemExit as error:
        # Lightning exits with 1 after Ctrl-C
        code = 130 if isinstance(error.__context__, KeyboardInterrupt) else error.code
        raise SystemExit(code) from None
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UnwritableError.of(error.filename or "a file of the run", error) from error
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise UserError(f"the checkpoint does not fit the model of the config: {error}") from error


def run(args: Sequence[str]) -> None:
    """Runs `fit`, `validate`, `test` or `predict`.

    Args:
        args: The command line, beginning with the command.

    Raises:
        UserError: For a mistake in the command line, the config, the data or the checkpoint.
    """
    with readable_errors():
        AsclCLI(args)
