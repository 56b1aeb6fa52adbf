"""Image-text retrieval with asymmetry-sensitive contrastive learning (AsCL, ICME 2024)."""

__version__ = "0.1.0"
