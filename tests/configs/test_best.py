"""The fragment that carries the settings of `configs/flickr8k.yaml` over to other experiments."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ascl_lightning.__main__ import main
from ascl_lightning.runtime.config_files import SHIPPED, find_config, shipped_configs

BEST = "best/flickr8k"


def read(name: str) -> Any:
    return yaml.safe_load(find_config(name).read_text())


def leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Values by their place, without the level `init_args` that a class adds."""
    for key, value in tree.items():
        place = path if key == "init_args" else (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, place)
        else:
            yield place, value


SETTINGS = dict(leaves(read(BEST)))


def printed(capsys: pytest.CaptureFixture[str], *names: str) -> dict[tuple[str, ...], Any]:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *(f"--config={name}" for name in names), "--print_config"])
    assert stop.value.code == 0
    return dict(leaves(yaml.safe_load(capsys.readouterr().out)))


def test_it_is_listed() -> None:
    assert BEST in shipped_configs()


def test_its_settings_are_those_of_flickr8k() -> None:
    parts = {part: yaml.safe_load((SHIPPED / file).read_text()) for part, file in read("flickr8k").items()}
    source = dict(leaves(parts))
    for place, value in SETTINGS.items():
        assert source.get(place) == value, f"configs/{BEST}.yaml must have the {'.'.join(place)} of flickr8k.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "coco_regions", "flickr30k"])
def test_an_experiment_changes_in_its_settings_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = printed(capsys, name), printed(capsys, name, BEST)
    assert after | SETTINGS == after
    assert {place for place in before | after if before.get(place) != after.get(place)} <= set(SETTINGS)
