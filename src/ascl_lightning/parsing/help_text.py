"""`--help` of a command that trains or evaluates: the project's own flags first, Lightning's on request."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

_SECTION = re.compile(r"\n\n(?=\S)")
_LIGHTNING = re.compile(r"^  --(trainer|checkpoint)\b", re.MULTILINE)
# `check_number` refuses it: nobody could repeat the run
_RANDOM_SEED = re.compile(r"\s*Set to True to use a\s+random seed\.")
_CKPT_PATH = """\
checkpoint:
  --ckpt_path PATH      a file, a folder of exported weights, or best or last of
                        the newest run under --trainer.default_root_dir"""
_RESUMES = """\
. fit
                        resumes from it, with the configuration of --config"""
_LIGHTNINGS_COMMANDS = {"fit", "validate", "test", "predict"}
_FLAGS_OF = {
    "resume": {"fit"},
    "recovery": {"fit"},
    "non_finite": {"fit"},
    "retrieval": {"validate", "test"},
    "report_card": {"validate", "test"},
    "allow_leak": {"test"},
    "timeout": _LIGHTNINGS_COMMANDS,
    "frozen_features": {*_LIGHTNINGS_COMMANDS, "interpolate", "triage", "advise"},
}
"""Flags and sections that only these commands use. Every command parses them: it may get the config of any run."""


def arranged_help(text: str, everything: bool) -> str:
    """Reorders the parser's help.

    Args:
        text: Usage, then sections that blank lines separate, as argparse writes them.
        everything: Whether to end with the sections of Lightning's own flags.

    Returns:
        A short usage, the general flags of the command, `--ckpt_path`, then model, data and callbacks. Linked
        arguments and flags of other commands are dropped.
    """
    if "\n  --help_all" not in text:
        return text  # of one class, as `--data.source.help Scenes` asks for
    found = re.match(r"usage: ascl (?:\[options\] )?(\w+)", text)
    command = "COMMAND" if found is None else found[1]
    unused = "|".join(name for name, commands in _FLAGS_OF.items() if command not in commands)
    text = re.sub(rf"^  --(?:{unused})\b.*\n(?:    .*\n)*", "", f"{_RANDOM_SEED.sub('', text.rstrip())}\n", flags=re.M)
    _, *sections = _SECTION.split(text.rstrip())
    general = [part for part in sections if part.startswith("options:")]
    flags = [part for part in sections if re.search(r"^  --", part, re.MULTILINE) and part not in general]
    lightning = [part for part in flags if _LIGHTNING.search(part)]
    own = [part for part in flags if part not in lightning and "\n  --ckpt_path" not in part]
    described = _CKPT_PATH + (_RESUMES if command == "fit" else "")
    ckpt_path = [described] if any("\n  --ckpt_path" in part for part in flags) else []
    end = lightning if everything else [f"Flags of Lightning (--trainer.*, --checkpoint.*): ascl {command} --help_all"]
    return "\n\n".join([f"usage: ascl {command} --config CONFIG [flags]", *general, *ckpt_path, *own, *end]) + "\n"


class ShowAllHelp(argparse.Action):
    """A flag that prints the whole help and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str = argparse.SUPPRESS, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=kwargs.get("help"))

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        """Called by the parser when it meets the flag."""
        print(arranged_help(ArgumentParser.format_help(parser), everything=True), end="")  # type: ignore[arg-type]
        parser.exit()
