"""The layout's promises: imports point one way, and the command answers before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_point_one_way():
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["nonsense"]])
def test_help_version_and_unknown_commands_import_nothing_heavy(args):
    script = (
        "import sys\n"
        "from ascl_lightning.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'lightning', 'transformers', 'timm', 'numpy', 'jsonargparse') "
        "if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_package_is_imported_at_once_and_lists_its_classes():
    script = (
        "import sys, ascl_lightning\n"
        "assert {'Retriever', 'Gallery', 'Encoded', 'UserError', '__version__'} <= set(dir(ascl_lightning))\n"
        "assert not hasattr(ascl_lightning, 'nothing')\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('torch', 'numpy', 'PIL', 'yaml')])\n"
        "ascl_lightning.Gallery\n"
        "print([name for name in ('lightning', 'timm', 'transformers', 'jsonargparse') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "[]"]
