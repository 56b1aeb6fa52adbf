"""Towers, fusion and scores: plain torch modules."""

from ascl_lightning.models.clip_encoders import ClipImageEncoder, ClipTextEncoder
from ascl_lightning.models.fusion import FusedSimilarity
from ascl_lightning.models.image_encoders import ConvImageEncoder, ImageEncoder, RegionEncoder, TimmImageEncoder
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.perturb import FeatureDropout, GaussianNoise, PerturbWords, ZeroOut
from ascl_lightning.models.scoring import local_similarity
from ascl_lightning.models.text_encoders import TextEncoder, TransformersTextEncoder, WordTransformer
from ascl_lightning.models.tuning import Lora, Tuning

__all__ = [
    "ClipImageEncoder",
    "ClipTextEncoder",
    "ConvImageEncoder",
    "FeatureDropout",
    "FusedSimilarity",
    "GaussianNoise",
    "ImageEncoder",
    "ImageTextModel",
    "Lora",
    "PerturbWords",
    "RegionEncoder",
    "TextEncoder",
    "TimmImageEncoder",
    "TransformersTextEncoder",
    "Tuning",
    "WordTransformer",
    "ZeroOut",
    "local_similarity",
]
