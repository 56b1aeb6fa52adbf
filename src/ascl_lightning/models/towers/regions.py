"""The image tower for features that were extracted beforehand."""

from ascl_lightning.data.batch import Features, RegionSpec
from ascl_lightning.models.towers.image import ImageEncoder
from ascl_lightning.models.towers.tuning import Tuning


class RegionEncoder(ImageEncoder):
    """Returns extracted image features, such as the paper's 36 regions of width 2048, unchanged.

    Args:
        num_regions: Maximum number of regions per image.
        dim: Width of a region's vector and of the global vector.
    """

    spec: RegionSpec

    def __init__(self, num_regions: int = 36, dim: int = 2048) -> None:
        super().__init__(Tuning(frozen=True))
        self.spec = RegionSpec(num_regions, dim)
        self.pooled_dim = self.token_dim = dim

    def _encode(self, regions: Features) -> Features:
        return regions
