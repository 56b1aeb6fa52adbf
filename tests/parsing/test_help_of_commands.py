"""`ascl COMMAND --help` of the commands that read configs."""

import re

import pytest

from ascl_lightning.__main__ import CONFIGURED, main

FLAGS = {
    "retrieval": {"validate", "test"},
    "allow_leak": {"test"},
    "resume": {"fit"},
    "recovery.keep": {"fit"},
    "non_finite.max_in_a_row": {"fit"},
    "report_card.commands": {"validate", "test"},
    "hubness.images": {"validate", "test"},
    "timeout": {"fit", "validate", "test", "predict"},
    "ckpt_path": {"fit", "validate", "test", "predict", "triage", "interpolate"},
    "data.root": CONFIGURED,
    "out": {"extract", "triage", "interpolate"},
}
"""The commands whose help shows a flag."""


@pytest.mark.parametrize("command", sorted(CONFIGURED))
def test_help_names_the_command_and_its_flags_only(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: ascl {command} --config CONFIG [flags]\n")
    assert shown.endswith(f"ascl {command} --help_all\n")
    flags = re.findall(r"^  (?:-\w, )?--([\w.]+)", shown, re.MULTILINE)
    assert {name for name in FLAGS if name in flags} == {
        name for name, commands in FLAGS.items() if command in commands
    }
    assert len(flags) == len(set(flags))
