import torch

from ascl_lightning.data.batch import Features, RegionSpec
from ascl_lightning.models.towers.regions import RegionEncoder


def test_regions_are_returned_unchanged() -> None:
    encoder = RegionEncoder(num_regions=5, dim=7)
    assert encoder.spec == RegionSpec(5, 7)
    assert (encoder.pooled_dim, encoder.token_dim, encoder.tuning.frozen, encoder.tuning.learning_rate) == (
        7,
        7,
        True,
        None,
    )
    regions = Features(torch.rand(2, 7), torch.rand(2, 5, 7), torch.ones(2, 5, dtype=torch.bool))
    assert encoder(regions) is regions
    assert list(encoder.parameters()) == []
