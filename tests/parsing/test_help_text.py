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
    own = ["usage: ascl fit --config CONFIG [flags]", "options:", "checkpoint:"]
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
