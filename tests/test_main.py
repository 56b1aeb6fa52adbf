import io
from types import SimpleNamespace

import pytest

from ascl_lightning import __version__
from ascl_lightning.__main__ import COMMANDS, main


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"ascl-lightning {__version__}\n"


@pytest.mark.parametrize(("given", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_command_may_give_the_exit_code(monkeypatch, given, code):
    module = SimpleNamespace(run=lambda args: given)
    monkeypatch.setattr("ascl_lightning.__main__.import_module", {COMMANDS["report"][0]: module}.get)
    assert main(["report"]) == code


@pytest.mark.parametrize("args", [["train"], [], ["--nonsense"]])
def test_an_unknown_command_ends_with_code_2(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert "ascl" in capsys.readouterr().err


def test_characters_that_an_ascii_terminal_lacks_are_escaped(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    module = SimpleNamespace(run=lambda args: print("na\u00efve \u72d7"))
    monkeypatch.setattr("ascl_lightning.__main__.import_module", {COMMANDS["report"][0]: module}.get)
    assert main(["report"]) == 0
    terminal.flush()
    assert terminal.buffer.getvalue() == b"na\\xefve \\u72d7\n"
