import math

import pytest
from scipy.stats import t

from ascl_lightning.metrics.seeds import spread, t_quantile


def test_by_hand():
    # of two values the standard error is half their difference, and t with one degree of freedom is tan(0.475 pi)
    figure = spread([70.0, 74.0])

    assert (figure.mean, figure.deviation) == (72, pytest.approx(math.sqrt(8)))
    assert figure.high - 72 == pytest.approx(2 * math.tan(0.475 * math.pi))
    assert figure.low == pytest.approx(144 - figure.high)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 199])
def test_quantiles_against_scipy(freedom, level):
    assert t_quantile(freedom, level) == pytest.approx(t.ppf(0.5 + level / 2, freedom), rel=1e-9)


def test_runs_that_agree_have_no_spread():
    assert spread([61.5, 61.5, 61.5]).low == spread([61.5, 61.5, 61.5]).high == 61.5


def test_one_run_says_nothing():
    with pytest.raises(ValueError, match="two runs"):
        spread([60.0])
