"""Embeddings for LangChain, in its own store in memory."""

from pathlib import Path

import torch
from langchain_core.vectorstores import InMemoryVectorStore
from PIL import Image
from tests.helpers.retrievers import pictures, small

from ascl_lightning.integrations.langchain import RetrieverEmbeddings

TEXTS = ["a red kite", "two dogs and a blue kite", "a dog", "blue"]


def test_a_store_finds_texts_and_pictures(tmp_path: Path) -> None:
    retriever = small()
    embeddings = RetrieverEmbeddings(retriever, batch_size=2)
    store = InMemoryVectorStore(embeddings)
    store.add_texts(TEXTS)
    best = int(retriever.similarity(pictures(1), TEXTS).argmax())
    file = tmp_path / "picture.png"
    Image.fromarray(pictures(1)[0].permute(1, 2, 0).numpy()).save(file)
    (vector,) = embeddings.embed_image([str(file)])
    (found,) = store.similarity_search_by_vector(vector, k=1)
    assert found.page_content == TEXTS[best]
    (same,) = store.similarity_search(TEXTS[1], k=1)
    assert same.page_content == TEXTS[1]
    expected = retriever.encode_texts(TEXTS, batch_size=2).embeds
    torch.testing.assert_close(torch.tensor(embeddings.embed_documents(TEXTS)), expected)
    assert embeddings.embed_documents([]) == embeddings.embed_image([]) == []
