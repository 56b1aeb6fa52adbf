"""Samples of the three types of information asymmetry (docs/method.md#information-asymmetry).

`positives` makes T+ (types II and III) and `negatives` T- (type I) at word level, `sampler` decides which of them a
caption gets, and `image_operations` changes pictures. T- on word features is made in `models.perturb`.
"""

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySample, AsymmetrySampler, MadeText
from ascl_lightning.data.augment.image_operations import Blur, CropPart, ImageOperation, Occlude, SideBySide
from ascl_lightning.data.augment.negatives import (
    DropAttribute,
    DropNoun,
    DropNumber,
    DropRelation,
    DropWord,
    ReplaceWord,
    ShuffleWords,
    SimilarCaption,
    SwapAttribute,
    SwapNoun,
    SwapNumber,
    SwapRelation,
    SwapVerb,
)
from ascl_lightning.data.augment.operation import AsymmetryType, TextContext, TextOperation
from ascl_lightning.data.augment.pair_mixing import FuseMix, MixGen, PairMixing
from ascl_lightning.data.augment.positives import (
    AppendOtherCaption,
    DeleteWords,
    FirstHalf,
    JoinCaptions,
    NounPhrase,
    RandomSpan,
    SwapWords,
    SynonymWords,
)

__all__ = [
    "AppendOtherCaption",
    "AsymmetrySample",
    "AsymmetrySampler",
    "AsymmetryType",
    "Blur",
    "CropPart",
    "DeleteWords",
    "DropAttribute",
    "DropNoun",
    "DropNumber",
    "DropRelation",
    "DropWord",
    "FirstHalf",
    "FuseMix",
    "ImageOperation",
    "JoinCaptions",
    "MadeText",
    "MixGen",
    "NounPhrase",
    "Occlude",
    "PairMixing",
    "RandomSpan",
    "ReplaceWord",
    "ShuffleWords",
    "SideBySide",
    "SimilarCaption",
    "SwapAttribute",
    "SwapNoun",
    "SwapNumber",
    "SwapRelation",
    "SwapVerb",
    "SwapWords",
    "SynonymWords",
    "TextContext",
    "TextOperation",
]
