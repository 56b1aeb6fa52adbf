from ascl_lightning.parsing.help_text import arranged_help

HELP = """\
usage: ascl [options] fit [-c CONFIG] [--trainer CONFIG]
                          [--model CONFIG]

Runs the full optimization routine.

options:
  -h, --help            Show this help.
  --seed_everything N   Set to an int.Set to True to use a
                        random seed. (default: 0)
  --help_all            Show all.
  --resume              Resume.

Customize every aspect of training via flags:
  --trainer CONFIG      Path.

Trains and evaluates image-text retrieval:
  --model CONFIG        Path.

Linked arguments:
  <lambda>(model) --> data.image_spec

Save the model:
  --checkpoint CONFIG   Path.

Runs the full optimization routine:
  --ckpt_path CKPT_PATH
                        Path/URL.
"""


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith(" ")]


def test_own_flags_come_first_and_lightnings_on_request():
    own = ["usage: ascl fit --config CONFIG [flags]", "Runs the full optimization routine.", "options:", "checkpoint:"]
    own.append("Trains and evaluates image-text retrieval:")
    short, whole = arranged_help(HELP, everything=False), arranged_help(HELP, everything=True)
    assert headings(short) == [*own, "Flags of Lightning (--trainer.*, --checkpoint.*): ascl fit --help_all"]
    assert headings(whole) == [
        *own,
        "Customize every aspect of training via flags:",
        "Save the model:",
    ]
    assert "random seed" not in short
    assert short.count("--ckpt_path") == 1
    assert "--resume" in short


def test_help_of_one_class_stays_as_it_is():
    text = HELP.replace("--help_all", "--other")
    assert arranged_help(text, everything=False) == text


def test_ranges_of_numbers_are_written_with_signs():
    text = HELP.replace(
        "Path.\n\nLinked",
        "Path.\n"
        "  --model.size N    (type: Optional[Annotated[int,\n        Gt(gt=0), not bool]], default: 3)\n"
        "  --model.share S   (type: Annotated[float, Ge(ge=0),\n        Le(le=1), not bool])\n"
        "  --model.drop S    (type: Annotated[float, Ge(ge=0), Lt(lt=1), not\n        bool])\n\nLinked",
    )
    shown = arranged_help(text, everything=False)
    assert "(type: int > 0 | null, default: 3)" in shown
    assert "--model.share S   (type: float from 0 to 1)" in shown
    assert "--model.drop S    (type: float from 0 to below 1)" in shown


def test_linked_arguments_are_not_listed():
    text = HELP.replace(
        "\n  --model CONFIG", "\n  --data.image_spec.help NAME\n                        Show.\n  --model CONFIG"
    )
    assert text != HELP
    assert arranged_help(text, everything=False) == arranged_help(HELP, everything=False)
