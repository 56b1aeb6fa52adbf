"""A dozen synsets in the format of WordNet's database (its manual page wndb(5)), in the layout of NLTK's data."""

from pathlib import Path

NOUNS = {
    # name: (words, hypernym)
    "animal": (["animal"], None),
    "dog": (["dog", "hound"], "animal"),
    "puppy": (["puppy"], "dog"),
    "cat": (["cat"], "animal"),
    "horse": (["horse"], "animal"),
    "sea_cow": (["sea_cow"], "animal"),
    "chromatic_color": (["chromatic_color"], None),
    "red": (["red"], "chromatic_color"),
    "blue": (["blue"], "chromatic_color"),
    "green": (["green"], "chromatic_color"),
}
VERBS = {
    "move": (["move"], None),
    "walk": (["walk"], "move"),
    "jump": (["jump", "leap"], "move"),
    "run": (["run"], "move"),
}
ADJECTIVES = {
    "big": (["big", "large"], "small"),
    "small": (["small"], "big"),
    "red": (["red"], None),
    "blue": (["blue"], None),
    "green": (["green"], None),
}
EXCEPTIONS = {"verb": "ran run\nrunning run\n", "noun": "", "adj": "", "adv": ""}
_LICENCE = "  1 WordNet 3.0 Copyright of nobody\n"
_NUMBERS = {"noun": ("n", "1", 5), "verb": ("v", "2", 38), "adj": ("a", "3", 0), "adv": ("r", "4", 2)}
_FRAMES = {"verb": " 01 + 02 00"}


def write_wordnet(folder: Path) -> Path:
    """Write the database below a folder of NLTK data, and give the folder."""
    root = folder / "corpora" / "wordnet"
    root.mkdir(parents=True)
    counts = []
    for name, synsets in (("noun", NOUNS), ("verb", VERBS), ("adj", ADJECTIVES), ("adv", {})):
        counts += _write_class(root, name, synsets)
        (root / f"{name}.exc").write_text(EXCEPTIONS[name])
    (root / "cntlist.rev").write_text("".join(sorted(counts)))
    (root / "lexnames").write_text("".join(f"{i:02d}\tname{i}\t1\n" for i in range(45)))
    return folder


def _write_class(root: Path, name: str, synsets: dict) -> list[str]:
    letter, number, file = _NUMBERS[name]
    offsets = _offsets(name, synsets)
    (root / f"data.{name}").write_text(_LICENCE + "".join(_line(name, key, synsets, offsets) for key in synsets))
    words: dict[str, list[int]] = {}
    for key, (of_synset, _) in synsets.items():
        for word in of_synset:
            words.setdefault(word, []).append(offsets[key])
    lines = (
        f"{word} {letter} {len(of)} 0 {len(of)} 1 {' '.join(f'{place:08d}' for place in of)}  \n"
        for word, of in sorted(words.items())
    )
    (root / f"index.{name}").write_text(_LICENCE + "".join(lines))
    # every word was counted but the hound; as a colour it is an adjective more often
    return [f"{word}%{number}:{file:02d}:00:: 1 {9 if name == 'adj' else 2}\n" for word in words if word != "hound"]


def _offsets(name: str, synsets: dict) -> dict[str, int]:
    offsets, place = {}, len(_LICENCE)
    for key in synsets:
        offsets[key] = place
        place += len(_line(name, key, synsets, dict.fromkeys(synsets, 0)))
    return offsets


def _line(name: str, key: str, synsets: dict, offsets: dict[str, int]) -> str:
    letter, _, file = _NUMBERS[name]
    words, target = synsets[key]
    pointers = [] if target is None else [("!" if name == "adj" else "@", target, "0101" if name == "adj" else "0000")]
    if name != "adj":
        pointers += [("~", other, "0000") for other, (_, above) in synsets.items() if above == key]
    parts = [f"{offsets[key]:08d} {file:02d} {letter} {len(words):02x}", *(f"{word} 0" for word in words)]
    parts += [f"{len(pointers):03d}", *(f"{sign} {offsets[to]:08d} {letter} {ends}" for sign, to, ends in pointers)]
    return " ".join(parts) + f"{_FRAMES.get(name, '')} | a gloss  \n"
