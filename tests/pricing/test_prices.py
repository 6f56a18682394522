import numpy as np
import pytest
from prepared_phantom import tiny_config

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.pricing import measure
from cxr_ray.pricing.bill import PricedTrial
from cxr_ray.pricing.prices import (
    Machine,
    ModelPrice,
    PriceList,
    lengths_to_measure,
    model_key,
    this_machine,
)
from cxr_ray.pricing.workload import Counts, Workload
from cxr_ray.storage import Storage

HERE = Machine("a processor", None, 2, 1, 0.0, "2.0")
COUNTS = Counts(train=60, val=20, test=40, own_val=10, own_test=20, positive_share=0.1)


def test_what_changes_no_arithmetic_changes_no_key():
    def key(machine=HERE, workers=1, **fields):
        return model_key(tiny_config(**fields), machine, workers)

    same = {"train__lr": 0.5, "train__seed": 3, "train__max_epochs": 2, "loss__kind": "focal"}
    assert {key(**{name: value}) for name, value in same.items()} == {key()}
    text = {"fusion__modalities": "text"}
    assert key(**text, image__size=48) == key(**text)
    others = [
        key(image__size=48),
        key(train__batch=5),
        key(compute__precision="float64"),
        key(text__layers=3),
        key(**text),
        key(image__freeze="conv1"),
        key(image__freeze="conv1", train__cache_frozen=True),
        key(workers=2),
        key(Machine("a processor", None, 1, 1, 0.0, "2.0")),
        key(Machine("a processor", None, 2, 1, 0.0, "2.1")),
    ]
    assert len({key(), *others}) == len(others) + 1


def test_the_lengths_on_both_sides_of_a_text_are_measured_and_none_that_the_model_cannot_read():
    assert lengths_to_measure([0], 512) == [0]
    assert lengths_to_measure([50, 64, 70], 512) == [48, 64, 96]
    assert lengths_to_measure([3, 99], 100) == [8, 96, 100]


def test_a_trial_is_priced_by_hand_between_measured_lengths():
    price = ModelPrice({10: 1.0, 20: 3.0}, {10: 0.5, 20: 0.5}, setup=7.0, checkpoint=2.0)
    work = Workload(COUNTS, train={10: 4, 15: 2}, val={20: 6}, final={10: 2})
    # an epoch: 4 * 1 + 2 * 2 + 6 * .5, and the checkpoint
    trial = PricedTrial(tiny_config(), work, price, 5.0, epochs=3, finished=False, workers=1)
    assert trial.seconds() == pytest.approx(7 + 3 * (11 + 2) + 1 + 5)
    assert sum(trial.shares().values()) == pytest.approx(trial.seconds())
    halved = PricedTrial(tiny_config(), work, price, 5.0, epochs=3, finished=False, workers=2)
    assert halved.seconds() == pytest.approx(7 + 3 * (5.5 + 2) + 0.5 + 5)


def test_prices_of_further_lengths_join_those_that_were_kept(tmp_path):
    storage = Storage.open(str(tmp_path))
    PriceList(storage).add({"model": ModelPrice({8: 1.0}, {8: 0.5}), "once": 4.0})
    PriceList(storage).add({"model": ModelPrice({16: 2.0}, {16: 0.7}, setup=1.0)})
    kept = PriceList(storage)
    assert kept.model("model") == ModelPrice({8: 1.0, 16: 2.0}, {8: 0.5, 16: 0.7}, setup=1.0)
    assert kept.seconds("once") == 4.0
    assert kept.model("other") is None


def test_made_up_records_have_the_length_and_size_asked_for():
    config = tiny_config()
    arm = measure.made_up_arm(config, 5, 12)
    assert arm.lengths.tolist() == [12] * 5
    assert arm.images.shape == (5, config.image.size, config.image.size)
    assert arm.text.tokens.max() < arm.text.vocabulary_size


def test_a_model_is_measured_at_every_length_asked_for_and_leaves_nothing_behind(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(measure, "ROUND_SECONDS", 0.0)
    config = tiny_config(fusion__modalities="text")
    where = {"device": "cpu", "threads": 1, "workers": 1, "folder": tmp_path}
    price = measure.measure_model(config, [8, 16], **where)
    for prices in (price.train, price.forward):
        assert set(prices) == {8, 16}
        assert min(prices.values()) > 0
    assert 0 < price.weights_bytes < price.checkpoint_bytes < price.peak_bytes
    stored = tiny_config(image__freeze="all", text__freeze="all", train__cache_frozen=True)
    cheap = measure.measure_model(stored, [16], **where)
    assert cheap.forward[16] < price.forward[16]
    assert list(tmp_path.iterdir()) == []


def test_the_statistics_of_a_trial_are_measured_and_leave_nothing_behind(tmp_path):
    few = EvaluationConfig(permutations=19, bootstrap=100)
    # As many heads as no small text encoder has: only the features' widths matter here.
    config = tiny_config(text__width=48, text__heads=12).model_copy(update={"evaluation": few})
    assert measure.measure_statistics(config, COUNTS, threads=1, folder=tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_machine_is_described_alike_each_time():
    assert this_machine(2, 1, 0.0) == this_machine(2, 1, 0.0)
    assert this_machine(2, 1, 0.0).gpu is None
    assert np.isfinite(float(this_machine(2, 1, 0.0).torch.partition(".")[0]))
