from importlib import import_module

import pytest

from ascl_lightning.parsing.messages import plain_message

UNION = """Parser key "trainer.max_epochs":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: abc"""
RANGE = """Parser key "data.batch_size":
  1 validation error for constrained-int
    Input should be greater than 0 [type=greater_than, input_value='0', input_type=str]
      For further information visit https://errors.pydantic.dev/2.14/v/greater_than. Got value: 0"""
CHOICE = """Parser key "trainer.precision":
  Does not validate against any of the Union subtypes
  Subtypes: [typing.Literal[64, 32, 16], typing.Literal['16-true', '16-mixed'], <class 'NoneType'>]
  Errors:
    - Expected a typing.Literal[64, 32, 16]
    - Expected a typing.Literal['16-true', '16-mixed']
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: 17"""
ZERO = """Parser key "model.fold_size":
  Does not validate against any of the Union subtypes
  Subtypes: [typing.Annotated[int, Gt(gt=0)], <class 'NoneType'>]
  Errors:
    - 1 validation error for constrained-int
        Input should be greater than [type=greater_than, input_value='0', input_type=str]
          For further information visit https://errors.pydantic.dev/2.14/v/greater_than
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: 0"""
BOOLEAN = """Parser key "data.batch_size":
  1 validation error for function-before[_check(), constrained-int]
    Value error, expected a number [type=value_error, input_value=True, input_type=bool]
      For further information visit https://errors.pydantic.dev/2.14/v/value_error. Got value: True"""
NO_CLASS = """Parser key "logger":
  - Expected a path but Foo either not accessible or invalid
  - Does not validate against any of the Union subtypes
    Errors:
      - Expected a dot import path string: Foo
      - Expected a <class 'bool'>
    Given value: Foo"""


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        (UNION, "--trainer.max_epochs: expected a whole number or null, got 'abc'"),
        (RANGE, "--data.batch_size: expected a number greater than 0, got '0'"),
        (ZERO, "--model.fold_size: expected a number greater than 0 or null, got '0'"),
        (BOOLEAN, "--data.batch_size: expected a number, got 'True'"),
        (CHOICE, "--trainer.precision: expected one of 64, 32, 16 or one of 16-true, 16-mixed or null, got '17'"),
        (NO_CLASS, "logger: unknown class 'Foo'"),
        ("unrecognized arguments: --nonsense 1", "unrecognized arguments: --nonsense 1"),
        ('Parser key "x": Something\n  else', "x: Something else"),
    ],
)
def test_a_message_says_what_was_expected_and_given(message, plain):
    assert plain_message(message) == plain


def test_an_unknown_class_lists_the_known_ones():
    import_module("ascl_lightning.data.datamodule")
    given = "[ShuffleWords, DropWrod]"
    message = (
        f'Parser key "data.negatives":\n  - Expected a path but {given} either not accessible or invalid\n'
        "  - Expected a dot import path string: DropWrod"
    )
    assert plain_message(message).startswith("--data.negatives: unknown class 'DropWrod'; choose from ")
    assert {"DropWord", "ShuffleWords", "FirstHalf"} <= set(plain_message(message).split("choose from ")[1].split(", "))
    assert "InfoNCE" in plain_message(message.replace("data.negatives", "model.loss"))
