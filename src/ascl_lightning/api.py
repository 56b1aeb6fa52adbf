"""Python API: load a trained model, encode images and texts, score and search them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from warnings import warn

import torch
from huggingface_hub import ModelHubMixin
from jaxtyping import Float
from torch import Tensor

from ascl_lightning.data.batch import Features, ImageSpec, map_tensors
from ascl_lightning.data.inputs import picture_list, read_pictures, text_list
from ascl_lightning.data.text import Tokenizer, saved_tokenizer
from ascl_lightning.errors import UserError, first_line
from ascl_lightning.models.exported import CARD, Training, training_config, write_exported
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.rebuild import rebuild_model
from ascl_lightning.models.towers.base import hash_of_weights
from ascl_lightning.models.towers.pretrained import resolve_repository
from ascl_lightning.runtime.checkpoints import DATA_MODULE, WEIGHTS, read_checkpoint, read_weights
from ascl_lightning.runtime.config_files import CONFIG, find_config
from ascl_lightning.search.encoded import Encoded, Kind
from ascl_lightning.search.two_stage import rescore, shortlist

_DOWNLOADED = [CONFIG, WEIGHTS, CARD, "*_encoder/*.json", "*_encoder/*.txt"]
_SHORTLIST = 100  # default number of candidates to re-score

Part = TypeVar("Part")


@dataclass(frozen=True)
class Hit:
    """A search result."""

    index: int
    """Index in the gallery."""
    score: float
    """Fused score."""


class Retriever(ModelHubMixin):
    """A trained image-text model that encodes, scores and ranks.

    Images are paths, Pillow images, arrays (height, width, 3) or tensors (3, height, width), preprocessed as in
    evaluation; texts are strings. Methods that take encoded items also take raw ones and encode them. All computation
    is in float32, without gradients.

    Args:
        model: The model. It is set to evaluation mode and moved to the device.
        tokenizer: Tokenizer of the model's text tower.
        device: Device of the model. None: the first GPU if available, else the CPU.

    Example:
        >>> from ascl_lightning.data.text import Vocabulary, WordTokenizer
        >>> from ascl_lightning.models import ConvImageEncoder, FusedSimilarity, WordTransformer
        >>> vocabulary = Vocabulary(("a", "red", "kite"))
        >>> towers = ConvImageEncoder(image_size=32), WordTransformer(vocab_size=8, max_length=8)
        >>> model = ImageTextModel(*towers, FusedSimilarity(embed_dim=16, num_heads=2))
        >>> retriever = Retriever(model, WordTokenizer(vocabulary, 8, 8), device="cpu")
        >>> images = retriever.encode_images(torch.zeros(4, 3, 48, 64, dtype=torch.uint8))
        >>> retriever.score(images, ["a red kite", "a kite"]).shape
        torch.Size([4, 2])
        >>> [hit.index for hit in retriever.rank("a red kite", images, k=2)]
        [0, 1]
    """

    def __init__(self, model: ImageTextModel, tokenizer: Tokenizer, device: torch.device | str | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._training: Training | None = None
        self._hub_mixin_config = None  # or the mixin writes the arguments above to config.json
        self.to(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's looks for a config.json, and has no device
        cls, path: str | Path, *, revision: str | None = None, device: torch.device | str | None = None
    ) -> "Retriever":
        """Loads exported weights.

        Args:
            path: The folder `weights` of a run, or the id of a Hugging Face repository with the same files. Only
                safetensors and settings are read; no code in the repository is executed.
            revision: Branch, tag or commit of the repository.
            device: Device of the model, as in the constructor.

        Raises:
            UserError: If the folder or repository does not exist, or contains no model of this library.
        """
        folder = resolve_repository(path, revision, _DOWNLOADED)
        for name in (WEIGHTS, CONFIG):
            if not (folder / name).is_file():
                raise UserError(f"'{path}' has no {name}: give the folder `weights` of a run, or a copy of it")
        state, data = read_weights(folder / WEIGHTS)
        card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else None
        return cls._loaded(Training(training_config(folder / CONFIG), data, state, card), str(path), device, folder)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path,
        config: str | Path | Mapping[str, Any] | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> "Retriever":
        """Loads a checkpoint of `ascl fit`.

        Args:
            checkpoint: A `.ckpt` file.
            config: The configuration of the training, its file, or the name of a shipped config. None: `config.yaml`
                in the parent of the checkpoint's folder, which is the run's folder.
            device: Device of the model, as in the constructor.

        Raises:
            UserError: If a file cannot be read, or the checkpoint does not fit the configured model.
        """
        path = Path(checkpoint)
        if path.suffix == ".safetensors" or (path / WEIGHTS).is_file():
            raise UserError(f"'{path}' contains exported weights: load their folder with Retriever.from_pretrained")
        if config is None:
            config = path.resolve().parents[1] / CONFIG
        found = training_config(config if isinstance(config, Mapping) else find_config(config))
        content = read_checkpoint(path)
        state, data = content.get("state_dict", {}), content.get(DATA_MODULE, {})
        return cls._loaded(Training(found, data, state, metrics=content.get("metrics", {})), str(path), device)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the model, with a model card, to the Hugging Face Hub, and creates the repository if needed.

        Args:
            repo_id: Its id, such as `org/name`.
            **options: Of `huggingface_hub.ModelHubMixin.push_to_hub`, such as `private`, `branch` and `commit_message`.

        Returns:
            Address of the commit.

        Raises:
            UserError: If the model was built in Python, or the upload fails.
        """
        try:
            return str(super().push_to_hub(repo_id, **options))
        except UserError:
            raise
        except Exception as error:  # the client's errors differ between versions of huggingface_hub
            raise UserError(f"cannot upload to '{repo_id}': {first_line(error)}") from error

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def embed_dim(self) -> int:
        """Dimension D of the embeddings."""
        return self.model.similarity.embed_dim

    @property
    def image_spec(self) -> ImageSpec:
        """Preprocessing of images: size, filter, and how they become square."""
        return self.model.image_encoder.spec

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the model, which is stored with encoded items."""
        similarity, texts = self.model.similarity, self.model.text_encoder.spec
        settings = self.image_spec, texts.max_length, similarity.local_weight, similarity.global_fusion
        return hash_of_weights(self.model, f"{settings}")

    def __repr__(self) -> str:
        towers = type(self.model.image_encoder).__name__, type(self.model.text_encoder).__name__
        return f"Retriever({' and '.join(towers)}, {self.embed_dim} dimensions, on {self.device})"

    def to(self, device: torch.device | str) -> "Retriever":
        """Moves the model to a device and returns `self`."""
        try:
            self.model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"cannot use device '{device}': {first_line(error)}") from error
        return self

    @torch.no_grad()
    def encode_images(
        self,
        images: Any,
        *,
        batch_size: int = 64,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> Encoded:
        """Encodes one or more images.

        Args:
            images: Images as described for the class. For models of region features, arrays (number of regions, D) or
                `.npy` files.
            batch_size: Number of images per batch.
            device: Device to move the model to first.
            progress: Whether to show a progress bar.

        Returns:
            N encoded images, on the CPU.

        Raises:
            UserError: If an image cannot be read.
        """
        pictures = picture_list(images, self.image_spec)
        similarity, parts, done = self.model.similarity, [], 0
        for batch in self._batches(pictures, "images", batch_size, device, progress):
            inputs = map_tensors(read_pictures(batch, self.image_spec, done), lambda tensor: tensor.to(self.device))
            features = self.model.encode_images(inputs)
            parts.append(
                self._encoded("images", similarity.image_embeds(features), similarity.prepare_images(features))
            )
            done += len(batch)
        return Encoded.join(parts)

    @torch.no_grad()
    def encode_texts(
        self,
        texts: str | Iterable[str],
        *,
        batch_size: int = 256,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> Encoded:
        """Encodes one or more texts.

        Args:
            texts: Strings. Texts beyond the text tower's maximum length are truncated with a warning.
            batch_size: Number of texts per batch.
            device: Device to move the model to first.
            progress: Whether to show a progress bar.

        Returns:
            M encoded texts, on the CPU.

        Raises:
            UserError: If a text is blank.
        """
        similarity, parts, num_cut = self.model.similarity, [], 0
        for batch in self._batches(text_list(texts), "texts", batch_size, device, progress):
            tokenized, cut = self.tokenizer(batch)
            features = self.model.encode_texts(map_tensors(tokenized, lambda tensor: tensor.to(self.device)))
            embeds, prepared = similarity.text_embeds(features), similarity.prepare_texts(features)
            parts.append(self._encoded("texts", embeds, prepared))
            num_cut += cut
        if num_cut:
            warn(f"{num_cut} texts were truncated to {self.model.text_encoder.spec.max_length} tokens", stacklevel=2)
        return Encoded.join(parts)

    def similarity(self, images: Any, texts: Any) -> Float[Tensor, "N M"]:
        """Cosine similarity of independent embeddings, as computed by a vector index.

        Args:
            images: Encoded or raw images.
            texts: Encoded or raw texts.

        Returns:
            Cosine similarities in [-1, 1], (N, M).
        """
        encoded_images, encoded_texts = self._as("images", images), self._as("texts", texts)
        return encoded_images.embeds @ encoded_texts.embeds.to(encoded_images.device).T

    @torch.no_grad()
    def score(self, images: Any, texts: Any) -> Float[Tensor, "N M"]:
        """Fused score of each image with each text, by which the model is trained to rank.

        Intermediate results of the single images and texts are cached with them, so a second call with the same
        encoded items is faster.

        Args:
            images: Encoded or raw images.
            texts: Encoded or raw texts.

        Returns:
            Fused scores in [-1, 1], on the CPU, (N, M).
        """
        columns = list(self._as("texts", texts).comparable(self.model.similarity, self.device))
        rows = [
            torch.cat([self.model.similarity.compare_ready(row, column).cpu() for column in columns], 1)
            for row in self._as("images", images).comparable(self.model.similarity, self.device)
        ]
        return torch.cat(rows)

    @torch.no_grad()
    def rank(
        self, query: Any, gallery: Any, k: int = 10, *, candidates: int | None = None
    ) -> list[Hit] | list[list[Hit]]:
        """Searches a gallery in two stages: a shortlist by embeddings, sorted by the fused score.

        Args:
            query: One or more texts or images, raw or encoded.
            gallery: Images for text queries, texts for image queries. Encode a gallery once to search it repeatedly.
                Strings are texts in `query` and paths in `gallery`, unless the other argument is encoded.
            k: Maximum number of hits per query.
            candidates: Length of the shortlist, at least k. None: 100. The gallery's size makes the search exact.

        Returns:
            The hits of a single raw query, best first; else a list of hits per query.

        Raises:
            UserError: If query and gallery are both images or both texts, or a number is not positive.
        """
        if k < 1 or (candidates is not None and candidates < 1):
            raise UserError(f"k is {k} and candidates {candidates}: give positive numbers")
        asked = query if isinstance(query, Encoded) else picture_list(query, self.image_spec)
        kinds: tuple[Kind, Kind] = ("images", "texts") if _asks_for_texts(asked, gallery) else ("texts", "images")
        queries, items = (self._as(kind, given) for kind, given in zip(kinds, (asked, gallery), strict=True))

        def fused(numbers: Tensor, others: Tensor) -> Tensor:
            if kinds[0] == "images":
                return self._fused(queries[numbers], items[others])
            return self._fused(items[others], queries[numbers]).T

        listed = shortlist(queries.embeds.to(items.device), items.embeds, max(k, candidates or _SHORTLIST))
        scores, order = rescore(fused, listed).sort(dim=1, descending=True, stable=True)
        found = listed.candidates.gather(1, order.to(items.device))[:, :k]
        hits = [
            [Hit(index, value) for index, value in zip(indices, values, strict=True)]
            for indices, values in zip(found.tolist(), scores[:, :k].tolist(), strict=True)
        ]
        return hits[0] if asked[0] is query else hits

    @classmethod
    def _loaded(
        cls, training: Training, source: str, device: torch.device | str | None, settings: Path | None = None
    ) -> "Retriever":
        model = rebuild_model(training.config["model"], training.state, source, settings)
        retriever = cls(model, saved_tokenizer(model.text_encoder.spec, training.data), device)
        retriever._training = training.without_model()
        return retriever

    def _save_pretrained(self, save_directory: Path) -> None:
        """What `save_pretrained` and `push_to_hub` of the mixin write."""
        from ascl_lightning.training.model_card import model_card

        training = self._training
        if training is None:
            raise UserError("a model built in Python has no configuration to save: load one that `ascl fit` trained")
        card = training.card or model_card(self.model, training.config, training.metrics)
        write_exported(save_directory, self.model, training, card)

    def _encoded(self, kind: Kind, embeds: Tensor, prepared: Features) -> Encoded:
        similarity = self.model.similarity
        embeds, prepared = embeds.cpu(), map_tensors(prepared, Tensor.cpu)
        if similarity.local_weight < 1 and similarity.global_fusion != "pairwise":
            # the fused score uses the embeddings, so they need not be stored twice
            prepared = Features(embeds, prepared.tokens, prepared.mask)
        return Encoded(kind, embeds, prepared, self.fingerprint)

    def _as(self, kind: Kind, given: Any) -> Encoded:
        """Encodes raw items, and checks the kind and model of encoded ones."""
        if not isinstance(given, Encoded):
            return self.encode_images(given) if kind == "images" else self.encode_texts(given)
        if given.kind != kind:
            raise UserError(
                f"expected {kind}, got encoded {given.kind}: images are the first argument, texts the second"
            )
        if given.model != self.fingerprint:
            raise UserError(f"these {kind} were encoded by another model: encode them again with this one")
        return given

    def _fused(self, images: Encoded, texts: Encoded) -> Tensor:
        similarity = self.model.similarity
        scores: Tensor = similarity.compare(images.to(self.device).features, texts.to(self.device).features)
        return scores.cpu()

    def _batches(
        self, items: list[Part], kind: Kind, batch_size: int, device: torch.device | str | None, progress: bool
    ) -> Iterable[list[Part]]:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: give a positive number")
        if not items:
            raise UserError(f"there are no {kind} to encode")
        if device is not None:
            self.to(device)
        batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
        if not progress:
            return batches
        from rich.progress import track

        return track(batches, f"Encoding {len(items)} {kind}")


def _asks_for_texts(query: Encoded | list[Any], gallery: Any) -> bool:
    """Whether the query is an image and the gallery consists of texts."""
    if isinstance(query, Encoded):
        return query.kind == "images"
    if isinstance(gallery, Encoded):
        return gallery.kind == "texts"
    return bool(query) and not isinstance(query[0], str)


__all__ = ["Encoded", "Hit", "Retriever", "UserError"]
