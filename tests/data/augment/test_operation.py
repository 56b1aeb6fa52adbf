import inspect

import pytest
from jsonargparse import ArgumentParser

from ascl_lightning.data import augment
from ascl_lightning.data.augment.negatives import DropWord
from ascl_lightning.data.augment.operation import TextContext, TextOperation
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.errors import UserError


@pytest.mark.parametrize("probability", [0.0, -1.0, float("nan"), float("inf")])
def test_a_probability_that_is_no_share_is_refused(probability: float) -> None:
    with pytest.raises(UserError, match="drop_word"):
        DropWord(probability=probability)


def test_a_context_without_captions_is_refused() -> None:
    with pytest.raises(ValueError, match="siblings"):
        TextContext(())


def test_a_config_names_every_operation_without_its_module() -> None:
    operations = [cls for cls in vars(augment).values() if inspect.isclass(cls) and issubclass(cls, TextOperation)]
    kinds = {cls.__name__: cls.type for cls in operations if not inspect.isabstract(cls)}
    positives = [name for name, kind in kinds.items() if kind != "I"]
    negatives = [name for name, kind in kinds.items() if kind == "I"]
    assert (len(positives), len(negatives)) == (8, 13)

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RetrievalDataModule, "data")
    lists = [f"--data.positives=[{', '.join(positives)}]", f"--data.negatives=[{', '.join(negatives)}]"]
    asymmetry = parser.instantiate(parser.parse_args(["--data.source=Scenes", *lists])).data.asymmetry
    assert [type(operation).__name__ for operation in asymmetry.positives] == positives
    assert [type(operation).__name__ for operation in asymmetry.negatives] == negatives
