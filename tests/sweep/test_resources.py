import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.errors import InputError
from cxr_ray.sweep.resources import TrialResources, count_slots


@pytest.mark.parametrize(
    ("need", "cluster", "slots"),
    [
        (TrialResources(), {"CPU": 2}, 2),
        (TrialResources(cpus_per_worker=3), {"CPU": 8}, 2),
        (TrialResources(workers=2, cpus_per_worker=2), {"CPU": 8}, 2),
        (TrialResources(gpus_per_worker=1), {"CPU": 16, "GPU": 2}, 2),
        (TrialResources(gpus_per_worker=0.25), {"CPU": 16, "GPU": 1}, 4),
        (TrialResources(gpus_per_worker=0.25), {"CPU": 3, "GPU": 1}, 3),
        (TrialResources(workers=2, gpus_per_worker=0.5), {"CPU": 16, "GPU": 4}, 4),
    ],
)
def test_trials_at_once_are_what_fits(need, cluster, slots):
    assert count_slots(need, cluster) == slots


def test_a_limit_only_lowers_what_fits():
    assert count_slots(TrialResources(), {"CPU": 8}, 3) == 3
    assert count_slots(TrialResources(), {"CPU": 8}, 30) == 8


def test_a_cluster_that_may_grow_gets_the_limit_as_demand():
    need = TrialResources(workers=2, gpus_per_worker=1)
    now = {"CPU": 8, "GPU": 2}
    assert count_slots(need, now, 30, may_grow=True) == 30
    assert count_slots(need, now, may_grow=True) == 1  # without a limit, what fits now
    with pytest.raises(InputError, match="needs 2 GPUs .* cluster has 1"):
        count_slots(need, {"CPU": 8, "GPU": 1}, 30, may_grow=True)


def test_a_trial_that_does_not_fit_is_refused_with_both_figures():
    with pytest.raises(InputError, match=r"needs 4 CPUs .*4 times 1 a worker.* cluster has 2"):
        count_slots(TrialResources(workers=4), {"CPU": 2})
    with pytest.raises(InputError, match="needs 1 GPUs .* cluster has 0"):
        count_slots(TrialResources(gpus_per_worker=1), {"CPU": 2})


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_under_one_is_refused(limit):
    with pytest.raises(InputError, match=f"--max-concurrent {limit}: should be at least 1"):
        count_slots(TrialResources(), {"CPU": 8}, limit)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workers": 0}, "--workers-per-trial 0: should be at least 1"),
        ({"cpus_per_worker": -1}, "--cpus-per-worker -1: should be at least 1"),
        ({"gpus_per_worker": -0.5}, "--gpus-per-worker -0.5: should be at least 0"),
        ({"wait_for_room": 0}, "--wait-for-room 0: should be at least 1"),
    ],
)
def test_a_trial_asks_for_at_least_one_worker_and_cpu(options, sentence):
    with pytest.raises(InputError, match=sentence):
        TrialResources(**options)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 4), st.integers(0, 64))
def test_all_trials_at_once_fit_and_one_more_would_not(workers, cpus, gpus, spare):
    need = TrialResources(workers, cpus, gpus)
    cluster = {"CPU": float(workers * cpus + spare), "GPU": float(workers * gpus + spare)}
    slots = count_slots(need, cluster)

    def fits(count):
        each = {"CPU": workers * cpus, "GPU": workers * gpus}
        return all(count * each[unit] <= cluster[unit] for unit in each)

    assert fits(slots)
    assert not fits(slots + 1)
