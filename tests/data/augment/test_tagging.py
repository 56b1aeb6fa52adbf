import importlib.util

import pytest
from tests.helpers.wordnet_files import write_wordnet

from ascl_lightning.data.augment import tagging
from ascl_lightning.data.augment.tagging import word_classes
from ascl_lightning.errors import UserError


def test_each_word_is_of_its_usual_class(tmp_path):
    folder = str(write_wordnet(tmp_path))
    assert word_classes("a red dog walks on dogs", None, folder) == (None, "adjective", "noun", "verb", None, "noun")


def test_a_missing_tagger_says_what_to_install(monkeypatch):
    tagging._load.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(UserError, match=r"ascl-lightning\[tagger\]"):
        word_classes("a dog", "en_core_web_sm", None)


@pytest.mark.skipif(importlib.util.find_spec("spacy") is None, reason="needs spaCy (extra `tagger`)")
def test_a_missing_model_says_what_to_download():
    with pytest.raises(UserError, match="spacy download no_such_model"):
        word_classes("a dog", "no_such_model", None)


@pytest.mark.skipif(importlib.util.find_spec("en_core_web_sm") is None, reason="needs spaCy's en_core_web_sm")
def test_tags_are_of_the_context():
    assert word_classes("a dog runs", "en_core_web_sm", None) == (None, "noun", "verb")
    assert word_classes("the runs of the dog", "en_core_web_sm", None)[1] == "noun"
