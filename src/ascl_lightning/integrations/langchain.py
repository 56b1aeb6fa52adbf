"""`Retriever` as embeddings of LangChain: texts and pictures in one vector space, for any of its vector stores."""

from langchain_core.embeddings import Embeddings

from ascl_lightning.api import Retriever


class RetrieverEmbeddings(Embeddings):
    """Embeddings of length 1, so that cosine, dot product and Euclidean distance rank alike.

    Args:
        retriever: The model.
        batch_size: Number of items per batch.

    Example:
        >>> from langchain_core.vectorstores import InMemoryVectorStore  # doctest: +SKIP
        >>> store = InMemoryVectorStore(RetrieverEmbeddings(Retriever.from_pretrained("weights")))  # doctest: +SKIP
        >>> _ = store.add_texts(["a red kite", "two dogs"])  # doctest: +SKIP
        >>> store.similarity_search("a dragon in the sky", k=1)  # doctest: +SKIP
    """

    def __init__(self, retriever: Retriever, batch_size: int = 64) -> None:
        self.retriever = retriever
        self.batch_size = batch_size

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embeddings of texts.

        Raises:
            UserError: If a text is blank.
        """
        if not texts:
            return []
        vectors: list[list[float]] = self.retriever.encode_texts(texts, batch_size=self.batch_size).embeds.tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Embedding of a text; the same as that of a document.

        Raises:
            UserError: If the text is blank.
        """
        return self.embed_documents([text])[0]

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """Embeddings of picture files; vector stores with `add_images` call it.

        Args:
            uris: Paths of the files.

        Raises:
            UserError: If a picture cannot be read.
        """
        if not uris:
            return []
        vectors: list[list[float]] = self.retriever.encode_images(uris, batch_size=self.batch_size).embeds.tolist()
        return vectors
