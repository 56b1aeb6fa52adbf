"""Losses on a matrix of similarities; one idea and one source per file, all called in the same way."""

from ascl_lightning.losses.asymmetric_contrastive import AsymmetricContrastiveLoss
from ascl_lightning.losses.base import ContrastiveLoss
from ascl_lightning.losses.info_nce import InfoNCE
from ascl_lightning.losses.temperature import Temperature

__all__ = ["AsymmetricContrastiveLoss", "ContrastiveLoss", "InfoNCE", "Temperature"]
