"""How often an image scores the right text higher than one that differs by an information asymmetry."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySample
from ascl_lightning.data.augment.operation import AsymmetryType
from ascl_lightning.data.batch import Features, map_tensors
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.evaluation.examples import spread
from ascl_lightning.metrics.comparisons import ORIGINAL, Kind, compare_texts, mean_shares
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.models.perturb import WordPerturbation
from ascl_lightning.training.accessors import retrieval_data, retrieval_module
from ascl_lightning.training.module import RetrievalModule

NUM_CAPTIONS = 64
_BLOCK = 16

_Texts = tuple[Features, Bool[Tensor, " C"]]
"""One encoded text for each of C captions, and whether it differs from its source."""


class AsymmetryShares(Callback):
    """Logs at each validation of a training how often an image scores the right one of two texts higher.

    Up to `NUM_CAPTIONS` evenly spaced validation captions T are used, with the operations of the training and fixed
    seeds. S is the score that the model ranks by, I the caption's image. `val/asymmetry/` has, of the captions that an
    operation changes, the fraction with

    - `type_i/NEGATIVE`: S(I, T) > S(I, T-);
    - `type_ii/POSITIVE/NEGATIVE`, `type_iii/POSITIVE/NEGATIVE`: S(I, T+) > S(I, (T+)-);
    - `type_ii/POSITIVE/over_negative/NEGATIVE`, ...: S(I, T+) > S(I, T-), with a wrong text of the caption's length;
    - `type_ii/POSITIVE/over_text`, ...: S(I, T+) > S(I, T). Neither text is wrong: a value near 1 means that the model
      prefers longer (type II) or shorter (type III) texts in general.

    `type_i` is the mean over operations of the first kind, `type_ii` and `type_iii` of the second. Random scores give
    0.5. Ties count as failures, so equal scores give 0.
    """

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes, encodes and scores the texts, on all ranks."""
        module, data = retrieval_module(pl_module), retrieval_data(trainer)
        types = _types(module, data)
        if trainer.state.fn != "fit" or trainer.sanity_checking or not types:
            return
        with torch.no_grad(), trainer.strategy.precision_plugin.forward_context():
            gallery = module.evaluation.gallery()
            captions = spread(torch.arange(len(gallery.texts.ids), device=gallery.texts.ids.device), NUM_CAPTIONS)
            encoded = dict(_encode(module, data, gallery, captions))
            images = gallery.images.select(gallery.image_of_text[captions])
            scores = _own_scores(module, images, [features for features, _ in encoded.values()])
        valid = {kind: differs for kind, (_, differs) in encoded.items()}
        compared = compare_texts(dict(zip(encoded, scores, strict=True)), valid, types)
        module.findings.comparisons = compared
        shares = {of.name: of.share for of in compared} | mean_shares(compared)
        pl_module.log_dict({f"val/asymmetry/{name}": share for name, share in shares.items()})


def _types(module: RetrievalModule, data: RetrievalDataModule) -> dict[str, str]:
    """The type of each operation, as in metric names."""
    on_words = {of.name: of.type for of in (*data.asymmetry.positives, *data.asymmetry.negatives)}
    return {name: _type_name(kind) for name, kind in on_words.items()} | dict.fromkeys(
        (of.name for of in _perturbations(module)), _type_name("I")
    )


def _type_name(kind: AsymmetryType) -> str:
    return kind if kind == "paraphrase" else f"type_{kind.lower()}"


def _perturbations(module: RetrievalModule) -> Sequence[WordPerturbation]:
    return () if module.word_features is None else module.word_features.operations


def _encode(
    module: RetrievalModule, data: RetrievalDataModule, gallery: Gallery, captions: Int[Tensor, " C"]
) -> Iterator[tuple[Kind, _Texts]]:
    """T, T+, T- and (T+)- of captions, for each operation and each pair of operations."""
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
    """Texts of each kind, and whether each differs from its source.

    Args:
        data: The data module with the operations.
        rows: Image row and caption row of each caption in the validation split.
    """
    view, maker, operations = data.view("val"), data.text_maker(), data.asymmetry
    made: dict[Kind, list[tuple[str, bool]]] = {}
    for positive in (None, *operations.positives):
        for negative in (None, *operations.negatives):
            chosen = maker.only(positive, negative)
            samples = [
                # validation captions have no row among the training images
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
    """Scores of each image with its own text of each kind."""
    blocks = []
    for rows in torch.arange(len(images)).split(_BLOCK):
        together = Features.join([_rows(of_kind, rows) for of_kind in texts])
        scores = module.model.score(_rows(images, rows), together)
        blocks.append(scores.unflatten(1, (len(texts), -1)).diagonal(dim1=0, dim2=2))
    return list(torch.cat(blocks, 1))


def _rows(features: Features, rows: Int[Tensor, " n"]) -> Features:
    taken: Features = map_tensors(features, lambda tensor: tensor[rows.to(tensor.device)])
    return taken
