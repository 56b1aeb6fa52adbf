"""`--help` of commands that read configs: the project's own flags first, Lightning's on request."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

_SECTION = re.compile(r"\n\n(?=\S)")
_LIGHTNING = re.compile(r"^  --(trainer|checkpoint)\b", re.MULTILINE)
# `check_number` rejects it, because such a run could not be repeated
_RANDOM_SEED = re.compile(r"\s*Set to True to use a\s+random seed\.")
# set by links from the encoders
_LINKED = re.compile(r"^  --data\.\w+_spec\.help.*\n(?: {8}.*\n?)*", re.MULTILINE)
_RANGE = re.compile(
    r"Annotated\[(?P<type>int|float),\s+(?P<low>G[te])\(g[te]=(?P<least>\d+)\)"
    r"(?:,\s+(?P<high>L[te])\(l[te]=(?P<most>\d+)\))?,\s+not\s+bool\]"
)
_OPTIONAL = re.compile(r"Optional\[([^\[\]]+)\]")
_CKPT_PATH = """\
checkpoint:
  --ckpt_path PATH      Checkpoint to load: a file, a folder of exported weights,
                        or `best` or `last` of the newest run under
                        --trainer.default_root_dir."""
_RESUMES = """
                        Training resumes from it, with the configuration of
                        --config."""
_LIGHTNINGS_COMMANDS = {"fit", "validate", "test", "predict"}
_FLAGS_OF = {
    "resume": {"fit"},
    "recovery": {"fit"},
    "non_finite": {"fit"},
    "retrieval": {"validate", "test"},
    "report_card": {"validate", "test"},
    "hubness": {"validate", "test"},
    "allow_leak": {"test"},
    "timeout": _LIGHTNINGS_COMMANDS,
    "frozen_features": {*_LIGHTNINGS_COMMANDS, "interpolate", "triage"},
}
"""Flags and sections that only these commands use. All commands parse them, because a run's config has them."""


def arranged_help(text: str, everything: bool) -> str:
    """Reorders and shortens the help of jsonargparse.

    Args:
        text: Usage and sections separated by blank lines, as argparse writes them.
        everything: Whether to append the sections of Lightning's flags.

    Returns:
        A short usage, the description, the command's flags, `--ckpt_path`, then model, data and callbacks. Linked
        arguments and flags of other commands are left out.
    """
    if "\n  --help_all" not in text:
        return text  # of one class, as `--data.source.help Scenes` asks for
    found = re.match(r"usage: ascl (?:\[options\] )?(\w+)", text)
    command = "COMMAND" if found is None else found[1]
    unused = "|".join(name for name, commands in _FLAGS_OF.items() if command not in commands)
    text = re.sub(rf"^  --(?:{unused})\b.*\n(?:    .*\n)*", "", f"{_RANDOM_SEED.sub('', text.rstrip())}\n", flags=re.M)
    _, *sections = _SECTION.split(_LINKED.sub("", text).rstrip())
    place = next((number for number, part in enumerate(sections) if part.startswith("options:")), 0)
    general = sections[: place + 1]  # the description first
    flags = [part for part in sections[place + 1 :] if re.search(r"^  --", part, re.MULTILINE)]
    lightning = [part for part in flags if _LIGHTNING.search(part)]
    own = [part for part in flags if part not in lightning and "\n  --ckpt_path" not in part]
    described = _CKPT_PATH + (_RESUMES if command == "fit" else "")
    ckpt_path = [described] if any("\n  --ckpt_path" in part for part in flags) else []
    end = lightning if everything else [f"Flags of Lightning (--trainer.*, --checkpoint.*): ascl {command} --help_all"]
    parts = [f"usage: ascl {command} --config CONFIG [flags]", *general, *ckpt_path, *own, *end]
    return _OPTIONAL.sub(r"\1 | null", _RANGE.sub(_in_signs, "\n\n".join(parts))) + "\n"


def _in_signs(found: re.Match[str]) -> str:
    """A range of numbers, such as `int > 0`."""
    if found["high"] is None:
        return f"{found['type']} {'>' if found['low'] == 'Gt' else '>='} {found['least']}"
    return f"{found['type']} from {found['least']} {'to' if found['high'] == 'Le' else 'to below'} {found['most']}"


class ShowAllHelp(argparse.Action):
    """A flag that prints the whole help and exits."""

    def __init__(self, option_strings: Sequence[str], dest: str = argparse.SUPPRESS, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=kwargs.get("help"))

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        """Called by the parser for the flag."""
        print(arranged_help(ArgumentParser.format_help(parser), everything=True), end="")  # type: ignore[arg-type]
        parser.exit()
