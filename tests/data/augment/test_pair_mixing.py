import numpy as np
import pytest

from ascl_lightning.data.augment import FuseMix, MixGen, PairMixing
from ascl_lightning.errors import UserError


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_the_share_of_fusemix_has_mean_and_variance_of_a_beta_distribution(alpha: float) -> None:
    rng = np.random.default_rng(0)
    shares = np.array([FuseMix(alpha).share(rng) for _ in range(4000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_mixgen_mixes_a_quarter_of_the_pairs_by_halves() -> None:
    rng = np.random.default_rng(0)
    shares = [MixGen().share(rng) for _ in range(4000)]
    assert set(shares) == {None, 0.5}
    assert shares.count(0.5) / len(shares) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("mixing", "given", "message"),
    [
        (MixGen(), {"made_texts": True}, "MixGen makes no T. and T- of mixed pairs: set data.positives"),
        (FuseMix(), {"augmented": True}, "FuseMix mixes features of whole pictures"),
    ],
)
def test_configurations_that_do_not_fit_are_named(mixing: PairMixing, given: dict[str, bool], message: str) -> None:
    plain = {"made_texts": False, "augmented": False}
    mixing.check(**plain)
    with pytest.raises(UserError, match=message):
        mixing.check(**plain | given)


def test_fusemix_needs_features_and_mixgen_none() -> None:
    FuseMix().check_features(images=True, texts=True, tokens=False)
    MixGen().check_features(images=False, texts=False, tokens=True)
    with pytest.raises(UserError, match="FuseMix mixes global vectors, but the model reads local tokens"):
        FuseMix().check_features(images=True, texts=True, tokens=True)
    for images, texts in ((True, False), (False, True)):
        with pytest.raises(UserError, match="FuseMix mixes features of frozen towers"):
            FuseMix().check_features(images=images, texts=texts, tokens=False)
        with pytest.raises(UserError, match="MixGen mixes pictures and captions"):
            MixGen().check_features(images=images, texts=texts, tokens=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FuseMix(0.0), "alpha of FuseMix is 0"),
        (lambda: MixGen(1.5), "probability of MixGen is 1.5"),
        (lambda: MixGen(0.5, 0.0), "weight 0"),
    ],
)
def test_numbers_out_of_range_are_named(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
