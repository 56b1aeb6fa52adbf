"""How often the model prefers the right one of two texts that differ by one kind of information asymmetry."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ascl_lightning.data.augment.operation import AsymmetryType
from ascl_lightning.data.augment.sampler import AsymmetrySample
from ascl_lightning.data.batch import Features, map_tensors
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.metrics.comparisons import ORIGINAL, Kind, compare_texts, mean_shares
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.models.perturb import WordPerturbation
from ascl_lightning.training.accessors import retrieval_data, retrieval_module
from ascl_lightning.training.module import RetrievalModule

NUM_CAPTIONS = 64
_BLOCK = 16

_Encoded = tuple[Features, Bool[Tensor, " C"]]
"""One text for each of C captions, and where it differs from what it was made of."""


class AsymmetryShares(Callback):
    """Logs, at each validation of a training, how often an image prefers the right one of two texts.

    Up to `NUM_CAPTIONS` validation captions T at even distances stand for all: always the same ones, with the same
    draws of the operations that training uses. S is the score that the configuration ranks by, I the caption's image.
    Of the captions that an operation can change, `val/asymmetry/` has the share in which

    - `type_i/NEGATIVE`: S(I, T) > S(I, T-);
    - `type_ii/POSITIVE/NEGATIVE`, `type_iii/POSITIVE/NEGATIVE`: S(I, T+) > S(I, (T+)-);
    - `type_ii/POSITIVE/over_negative/NEGATIVE`, ...: S(I, T+) > S(I, T-), with a wrong text of the caption's length;
    - `type_ii/POSITIVE/over_text`, ...: S(I, T+) > S(I, T). Neither is wrong: near 1 the model likes texts that say
      more (type II) or less (type III), whatever they say.

    `type_i` is the mean over operations of the first kind, `type_ii` and `type_iii` of the second. A scorer that draws
    lots has 0.5; one that does not tell two texts apart has 0, as ties are lost.
    """

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes, encodes and scores the texts; every rank does the same."""
        module, data = retrieval_module(pl_module), retrieval_data(trainer)
        types = _types(module, data)
        if trainer.state.fn != "fit" or trainer.sanity_checking or not types:
            return
        with torch.no_grad(), trainer.strategy.precision_plugin.forward_context():
            gallery = module.evaluation.gallery()
            captions = _spread(gallery)
            encoded = dict(_encode(module, data, gallery, captions))
            images = gallery.images.select(gallery.image_of_text[captions])
            scores = _own_scores(module, images, [features for features, _ in encoded.values()])
        valid = {kind: differs for kind, (_, differs) in encoded.items()}
        compared = compare_texts(dict(zip(encoded, scores, strict=True)), valid, types)
        module.findings.comparisons = compared
        shares = {of.name: of.share for of in compared} | mean_shares(compared)
        pl_module.log_dict({f"val/asymmetry/{name}": share for name, share in shares.items()})


def _types(module: RetrievalModule, data: RetrievalDataModule) -> dict[str, str]:
    """The type of each operation of a training, as it stands in names of metrics."""
    on_words = {of.name: of.type for of in (*data.asymmetry.positives, *data.asymmetry.negatives)}
    return {name: _type_name(kind) for name, kind in on_words.items()} | dict.fromkeys(
        (of.name for of in _perturbations(module)), _type_name("I")
    )


def _type_name(kind: AsymmetryType) -> str:
    return kind if kind == "paraphrase" else f"type_{kind.lower()}"


def _perturbations(module: RetrievalModule) -> Sequence[WordPerturbation]:
    return () if module.word_features is None else module.word_features.operations


def _spread(gallery: Gallery) -> Int[Tensor, " C"]:
    """Numbers of up to `NUM_CAPTIONS` texts at even distances."""
    size = len(gallery.texts.ids)
    return torch.linspace(0, size - 1, min(NUM_CAPTIONS, size), device=gallery.texts.ids.device).long()


def _encode(
    module: RetrievalModule, data: RetrievalDataModule, gallery: Gallery, captions: Int[Tensor, " C"]
) -> Iterator[tuple[Kind, _Encoded]]:
    """T, T+, T- and (T+)- of captions: by each operation, and by each pair of them."""
    text_ids = gallery.texts.ids[captions]
    rows = list(zip(gallery.images.ids[gallery.image_of_text[captions]].tolist(), text_ids.tolist(), strict=True))
    tokenizer = data.tokenizer()
    originals: dict[str | None, Features] = {None: gallery.texts.select(captions)}
    yield ORIGINAL, (originals[None], torch.ones_like(captions, dtype=torch.bool))
    for (positive, negative), texts in _made_texts(data, rows).items():
        tokenized, _ = tokenizer([text for text, _ in texts])
        features = module.model.encode_texts(map_tensors(tokenized, lambda tensor: tensor.to(captions.device)))
        if negative is None:
            originals[positive] = features
        yield (positive, negative), (features, captions.new_tensor([differs for _, differs in texts]).bool())
    for positive, original in originals.items():
        for perturbation in _perturbations(module):
            perturbed = perturbation(original, text_ids)
            yield (positive, perturbation.name), (perturbed, perturbed.differ(original))


def _made_texts(data: RetrievalDataModule, rows: Sequence[tuple[int, int]]) -> dict[Kind, list[tuple[str, bool]]]:
    """Texts by how they were made, and whether each differs from what it was made of.

    Args:
        data: Whose operations and draws they are.
        rows: Image and caption, as rows of the validation split.
    """
    view, maker, operations = data.view("val"), data.text_maker(), data.asymmetry
    made: dict[Kind, list[tuple[str, bool]]] = {}
    for positive in (None, *operations.positives):
        for negative in (None, *operations.negatives):
            chosen = maker.only(positive, negative)
            samples = [
                # no image of the training captions
                chosen.make(view.split.captions[image], text - view.text_rows(image).start, None, 0, text)
                for image, text in rows
            ]
            if positive is not None or negative is not None:
                kind = None if positive is None else positive.name, None if negative is None else negative.name
                made[kind] = [_text(sample, kind) for sample in samples]
    return made


def _text(sample: AsymmetrySample, kind: Kind) -> tuple[str, bool]:
    positive, negative = kind
    if negative is None:
        made, differs = sample.positive, sample.positive is not None and sample.positive.text != sample.text
    else:
        made = sample.negative if positive is None else sample.positive_negative
        differs = made is not None and made.valid
    return "" if made is None else made.text, differs


def _own_scores(module: RetrievalModule, images: Features, texts: Sequence[Features]) -> list[Float[Tensor, " C"]]:
    """Scores of each image with its row of each kind of texts; what else a block holds is not looked at."""
    blocks = []
    for rows in torch.arange(len(images)).split(_BLOCK):
        together = Features.join([_rows(of_kind, rows) for of_kind in texts])
        scores = module.model.score(_rows(images, rows), together)
        blocks.append(scores.unflatten(1, (len(texts), -1)).diagonal(dim1=0, dim2=2))
    return list(torch.cat(blocks, 1))


def _rows(features: Features, rows: Int[Tensor, " n"]) -> Features:
    taken: Features = map_tensors(features, lambda tensor: tensor[rows.to(tensor.device)])
    return taken
