"""Towers, fusion and similarity, as plain torch modules."""

from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.perturb import FeatureDropout, GaussianNoise, PerturbWords, ZeroOut
from ascl_lightning.models.pooling import GeneralizedPooling
from ascl_lightning.models.projection import ProjectionSettings
from ascl_lightning.models.similarity.aggregation import Aggregation, LearnedWeights, LogSumExp, TopKMean
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.late_interaction import LateInteraction
from ascl_lightning.models.similarity.local import CrossAttention, LocalLevel, local_similarity
from ascl_lightning.models.towers.clip import ClipImageEncoder, ClipTextEncoder
from ascl_lightning.models.towers.convolutional import ConvImageEncoder
from ascl_lightning.models.towers.image import ImageEncoder, PixelEncoder, grid_features
from ascl_lightning.models.towers.regions import RegionEncoder
from ascl_lightning.models.towers.text import TextEncoder, masked_mean
from ascl_lightning.models.towers.timm_backbone import TimmImageEncoder
from ascl_lightning.models.towers.transformers_text import TransformersTextEncoder
from ascl_lightning.models.towers.tuning import Lora, Tuning
from ascl_lightning.models.towers.word_convolution import WordConvolution
from ascl_lightning.models.towers.word_transformer import WordTransformer

__all__ = [
    "Aggregation",
    "ClipImageEncoder",
    "ClipTextEncoder",
    "ConvImageEncoder",
    "CrossAttention",
    "FeatureDropout",
    "FusedSimilarity",
    "GaussianNoise",
    "GeneralizedPooling",
    "ImageEncoder",
    "ImageTextModel",
    "LateInteraction",
    "LearnedWeights",
    "LocalLevel",
    "LogSumExp",
    "Lora",
    "PerturbWords",
    "PixelEncoder",
    "ProjectionSettings",
    "RegionEncoder",
    "TextEncoder",
    "TimmImageEncoder",
    "TopKMean",
    "TransformersTextEncoder",
    "Tuning",
    "WordConvolution",
    "WordTransformer",
    "ZeroOut",
    "grid_features",
    "local_similarity",
    "masked_mean",
]
