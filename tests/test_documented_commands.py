"""Every command of the README, the docs and the comments of configs has flags and values that the parser accepts."""

import re
import shlex
from pathlib import Path

import pytest

from ascl_lightning.__main__ import CONFIGURED, main

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("configs/**/*.yaml")))
COMMAND = re.compile(r"(?:^|`|-m |srun )ascl(?:_lightning)? (\w+ [^`\n]+)", re.MULTILINE)


def commands(page: Path) -> list[str]:
    text = re.sub(r"^#\s*", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = [re.sub(r"\s+#.*", "", line) for line in COMMAND.findall(text.replace("\\\n", " "))]
    return [line.replace("FILE", "scenes") for line in found if line.split()[0] in CONFIGURED and "--config" in line]


FOUND = sorted({line for page in PAGES for line in commands(page)})


def test_commands_are_found():
    assert len(FOUND) > 30
    assert {line.split()[0] for line in FOUND} == CONFIGURED


@pytest.mark.slow
@pytest.mark.parametrize("line", FOUND)
def test_the_parser_accepts(line, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main([*shlex.split(line), "--print_config"])
    assert end.value.code in (0, None)
    assert "model:" in capsys.readouterr().out
