import pytest
from jsonargparse import ArgumentError, ArgumentParser

from ascl_lightning.runtime import number_types
from ascl_lightning.runtime.number_types import NonNegativeFloat, PositiveInt, Seed, UnitInterval


class Settings:
    def __init__(
        self,
        batch_size: PositiveInt = 2,
        fold_size: PositiveInt | None = None,
        weight: NonNegativeFloat = 0.5,
        share: UnitInterval = 0.5,
        seed: Seed = 0,
    ) -> None: ...


def parsed(settings: str):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Settings, "data")
    return parser.parse_args(["--data", settings]).data


@pytest.mark.parametrize("name", ["batch_size", "fold_size", "weight", "share", "seed"])
@pytest.mark.parametrize("value", ["true", "false"])
def test_yaml_booleans_are_no_numbers(name, value):
    with pytest.raises(ArgumentError, match="expected a number"):
        parsed(f"{{{name}: {value}}}")


def test_numbers_in_range_pass_as_plain_python_numbers():
    settings = parsed("{batch_size: 3, fold_size: null, weight: 2, share: 1.0, seed: 4294967295}")
    assert vars(settings) == {"batch_size": 3, "fold_size": None, "weight": 2.0, "share": 1.0, "seed": 4294967295}
    assert [type(value) for value in vars(settings).values()] == [int, type(None), float, float, int]


@pytest.mark.parametrize("setting", ["batch_size: 0", "weight: -0.1", "share: 1.1", "seed: 4294967296", "share: x"])
def test_numbers_out_of_range_are_refused(setting):
    with pytest.raises(ArgumentError, match="Input should be"):
        parsed(f"{{{setting}}}")


def test_every_type_refuses_booleans():
    types = [value for name, value in vars(number_types).items() if hasattr(value, "__metadata__")]
    assert len(types) == 7
    assert all(type(metadata[-1]).__name__ == "_NotBool" for metadata in (of.__metadata__ for of in types))
