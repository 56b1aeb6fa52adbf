"""Contrastive losses on `PairScores`; one idea and one source per file."""

from ascl_lightning.losses.asymmetric_contrastive import AsymmetricContrastiveLoss
from ascl_lightning.losses.base import ContrastiveLoss, PairScores
from ascl_lightning.losses.distillation import distillation
from ascl_lightning.losses.info_nce import InfoNCE
from ascl_lightning.losses.multi_positive import MultiPositiveInfoNCE
from ascl_lightning.losses.sigmoid import SigmoidLoss
from ascl_lightning.losses.soft_targets import SoftTargetInfoNCE
from ascl_lightning.losses.temperature import Temperature
from ascl_lightning.losses.triplet import TripletLoss

__all__ = [
    "AsymmetricContrastiveLoss",
    "ContrastiveLoss",
    "InfoNCE",
    "MultiPositiveInfoNCE",
    "PairScores",
    "SigmoidLoss",
    "SoftTargetInfoNCE",
    "Temperature",
    "TripletLoss",
    "distillation",
]
