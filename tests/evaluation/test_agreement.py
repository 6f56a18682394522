import numpy as np
import pytest

from cxr_ray.evaluation.agreement import COMPLETE, ONE_CATEGORY, cohen_kappa

# Hout, Duncan & Sobel 1987, in Agresti, Categorical Data Analysis: 91 couples on a scale of four.
# R's vcd::Kappa(SexualFun) prints unweighted .1293, standard error .0686.
COUPLES = [[7, 7, 2, 3], [2, 8, 3, 7], [1, 5, 4, 9], [2, 8, 9, 14]]


def test_kappa_and_its_interval_are_the_published_ones():
    found = cohen_kappa(COUPLES)
    assert found.n == 91
    assert found.kappa == pytest.approx(0.1293, abs=5e-5)
    assert (found.high - found.low) / 2 / 1.959964 == pytest.approx(0.0686, abs=5e-5)


def test_the_interval_covers_the_kappa_of_the_population():
    rng = np.random.default_rng(5)
    share = np.array([[0.30, 0.05, 0.02], [0.06, 0.25, 0.04], [0.03, 0.05, 0.20]])
    chance = share.sum(0) @ share.sum(1)
    truth = (np.trace(share) - chance) / (1 - chance)
    tables = rng.multinomial(150, share.ravel(), size=2000).reshape(-1, 3, 3)
    found = [cohen_kappa(table) for table in tables]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.93 <= covered <= 0.965


def test_complete_agreement_leaves_room_for_what_was_not_seen():
    few, many = (cohen_kappa(np.diag([n, n])) for n in (5, 500))
    assert few.kappa == many.kappa == few.high == many.high == 1
    assert few.low < 0.5 < 0.98 < many.low
    assert few.method == COMPLETE


@pytest.mark.parametrize("table", [np.zeros((2, 2)), [[9, 0], [0, 0]]])
def test_one_category_alone_has_no_kappa_and_says_so(table):
    found = cohen_kappa(table)
    assert np.isnan([found.kappa, found.low, found.high]).all()
    assert found.method == ONE_CATEGORY


def test_raters_who_draw_at_random_do_not_agree_beyond_chance():
    found = cohen_kappa(np.outer([30, 70], [40, 60]) / 100)
    assert found.kappa == pytest.approx(0)
    assert found.low < 0 < found.high


def test_a_table_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="square"):
        cohen_kappa([[1, 2, 3], [4, 5, 6]])
