"""The command line of training and evaluation: Lightning's own, with what retrieval needs."""

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
from ascl_lightning.evaluation.leaks.guard import LeakGuard
from ascl_lightning.evaluation.leaks.record import RecordProvenance
from ascl_lightning.evaluation.page.page import write_report
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
from ascl_lightning.training.accessors import callbacks_of, is_trial, run_folder
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
    ".*your dataloader is not resumable",  # the data module goes on inside an epoch
    "Checkpoint directory .* exists and is not empty",  # a run that is gone on with
)


_yaml = get_loader("yaml")


def _checked_yaml(text: str) -> Any:
    check_yaml(text)
    return current_config(_yaml(text))


set_loader("yaml", _checked_yaml)


class OneLineParser(LightningArgumentParser):
    """Mistakes on the command line and in configs become a `UserError`, without a page of usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Called by the parser with what is wrong."""
        raise UserError(plain_message(message))

    def format_help(self, *args: Any) -> str:
        """The project's own flags; Lightning's are for --help_all."""
        return arranged_help(super().format_help(*args), everything=False)


class AsclCLI(LightningCLI):
    """`ascl fit | validate | test | predict`.

    A checkpoint brings weights and what was mined from the training data, never configuration: a config is code.
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
                # the data module's samplers share out the work themselves
                "use_distributed_sampler": False,
                "callbacks": [
                    KeyedDraws(),
                    RecordProvenance(),
                    RunSummary(),
                    TrainingProgress(),
                    EvaluationResults(),
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
        """Links what the encoders need to the data; adds the callbacks that can be configured."""
        parser.link_arguments("model", "data.image_spec", lambda m: m.model.image_encoder.spec, apply_on="instantiate")
        parser.link_arguments("model", "data.text_spec", lambda m: m.model.text_encoder.spec, apply_on="instantiate")
        parser.link_arguments("model", "data.with_tokens", lambda m: m.uses_tokens, apply_on="instantiate")
        parser.add_lightning_class_args(FrozenFeatures, "frozen_features")
        parser.add_lightning_class_args(ReportCard, "report_card")
        parser.add_argument("--help_all", action=ShowAllHelp, help="Show this help and Lightning's flags, and exit.")
        parser.add_argument(
            "--retrieval",
            type=Literal[tuple(SEARCHES)],
            default="full",
            help="validate and test: also search in two stages at a row of budgets",
        )
        parser.add_argument(
            "--allow_leak",
            "--allow-leak",
            action="store_true",
            help="test: go on where the model knows the split under test, and brand the results",
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="fit: go on with the newest run under --trainer.default_root_dir, from its last checkpoint",
        )
        parser.add_argument(
            "--timeout",
            type=PositiveFloat,
            default=600.0,
            help="seconds for which a process may keep the others waiting before the run ends",
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
        """Reads the list that it is given; Lightning would warn about one that is not the process's own."""
        try:
            self.config = parser.parse_args(args)
        except yaml.YAMLError as error:
            raise UserError(f"the config does not work{describe_yaml_error(error)}") from error
        command = self.config.get(self.config.get("subcommand"), self.config)
        check_number("seed_everything", command.get("seed_everything"))
        for name, value in vars(command.get("trainer")).items():
            check_number(f"trainer.{name}", value)

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

    def before_instantiate_classes(self) -> None:
        """Makes sure that the run can write its files, before any tower is built."""
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
        """Builds everything; a value that a class refuses is a mistake in the config."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UserError(f"the config does not work: {error}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds what every run has: metrics as CSV unless the config says otherwise, safe files, a limit to waiting."""
        config = self._get(self.config_init, "trainer")
        kwargs["callbacks"] = [*(config.callbacks or []), *self._callbacks_of_command()]
        # Lightning's table of modules counts no operations of towers: `RunSummary` says the sizes in a line
        kwargs["enable_model_summary"] = bool(config.enable_model_summary)
        own_bar = any(isinstance(callback, ProgressBar) for callback in kwargs["callbacks"])
        if config.enable_progress_bar is not False and not own_bar and not sys.stdout.isatty():
            kwargs["enable_progress_bar"] = False
            kwargs["callbacks"].append(ProgressLines())
        plugins = config.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        root = Path(config.default_root_dir)
        kwargs["logger"] = loggers_of_run(config.logger, root, str(self.subcommand), self._going_on)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError) as error:
            raise UserError(f"the trainer's config does not work: {error}") from error
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
        """Trains, and says how to test."""
        if self._going_on is not None:
            kwargs["ckpt_path"] = str(self._going_on.checkpoint)
        self.trainer.fit(**kwargs, weights_only=True)
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best:
            rank_zero_info(f"Best checkpoint: {best}\nTest it with the same --config and --ckpt_path {best}")
        elif not is_trial(self.trainer):
            rank_zero_warn("no validation ran: this run has no best checkpoint and no exported weights")

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
        """The page of the run, once every callback has left its files."""
        folder = None if is_trial(self.trainer) else run_folder(self.trainer)
        if folder is not None and self.trainer.is_global_zero and (folder / RESULTS).is_file():
            page = write_report(folder)
            rank_zero_info(f"Report: {page}")
            for dashboard in callbacks_of(self.trainer, Dashboard):
                dashboard.send_page(self.trainer, page)

    def _parse_ckpt_path(self) -> None:
        """In place of Lightning's, which would take configuration out of the checkpoint."""
        self._going_on: Continuation | None = None
        if "subcommand" not in self.config:
            return
        command = self.config[self.config.subcommand]
        root = Path(command.trainer.default_root_dir)
        command.ckpt_path = find_checkpoint(command.ckpt_path, root)
        training = self.config.subcommand == "fit"
        if training and command.ckpt_path and command.ckpt_path.endswith(".safetensors"):
            raise UserError(f"{command.ckpt_path}: weights alone cannot be gone on from; give a .ckpt of the run")
        if command.allow_leak and self.config.subcommand != "test":
            raise UserError("--allow_leak is for `ascl test`, which alone looks for leaks: leave it out")
        if command.resume:
            if not training or command.ckpt_path:
                raise UserError("--resume is for `ascl fit`, and finds the checkpoint itself: leave --ckpt_path out")
            self._going_on = Continuation.find(root)
            rank_zero_info(_announced(self._going_on, root))
            # the configuration that is kept with the run is for any command
            command.resume = False


def _log_folders(loggers: Any) -> Iterator[Path]:
    """Where the loggers of a config write."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        folder = getattr(logger, "init_args", {}).get("save_dir")
        if folder is not None:
            yield Path(folder)


def _announced(going_on: Continuation | None, root: Path) -> str:
    if going_on is None:
        return f"No run under '{root}' has a checkpoint to go on from: training starts anew"
    passed_over = "".join(f"Passed over: {fault}\n" for fault in going_on.passed_over)
    return f"{passed_over}Going on with {going_on.run} from {going_on.checkpoint.name}"


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turns what Lightning raises over mistakes in a config or a checkpoint into a `UserError`."""
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
    """Runs one of Lightning's commands.

    Raises:
        UserError: For every mistake in the command line, the config, the data or the checkpoint.
    """
    with readable_errors():
        AsclCLI(args)
