import pytest
from tests.helpers.wordnet_files import write_wordnet


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory) -> str:
    """Folder of NLTK data with a small WordNet."""
    return str(write_wordnet(tmp_path_factory.mktemp("nltk")))
