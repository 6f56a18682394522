"""What a trial does when its group of workers fails, without a cluster."""

from types import SimpleNamespace

import pytest

from cxr_ray.errors import TrialError
from cxr_ray.training import distributed
from cxr_ray.training.job import Job

NODES = [
    {"Alive": True, "Resources": {"CPU": 1.0}},
    {"Alive": True, "Resources": {"CPU": 1.0}},
    {"Alive": False, "Resources": {"CPU": 4.0}},
]


@pytest.fixture
def run(monkeypatch):
    """Run a trial of three workers whose groups end as told; returns the sizes that were tried."""
    import ray

    def run(*ends, elastic=True, nodes=NODES):
        sizes, remaining = [], iter(ends)
        monkeypatch.setenv(distributed.START_TIMEOUT, "60")
        monkeypatch.setattr(ray, "nodes", lambda: nodes)

        def run_group(job, workers, each):
            sizes.append(workers)
            end = next(remaining)
            if end is not None:
                raise end

        monkeypatch.setattr(distributed, "_run_group", run_group)
        job = Job("", "id", "attempt", {}, {}, workers=3, elastic=elastic, wait_for_room=7)
        distributed.run_distributed(job, run.told.append)
        return sizes

    run.told = []
    return run


def died(error=None):
    from ray.exceptions import RayActorError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    lost = WorkerHealthCheckFailedError("a check failed", RayActorError())
    return WorkerGroupError("worker 0", {0: RuntimeError("Connection closed"), 1: error or lost})


def no_room():
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import ControllerError

    return ControllerError(WorkerGroupStartupTimeoutError(3))


def test_a_group_that_fails_starts_again_twice_and_then_the_trial_ends_with_the_reason(run):
    assert run(died(), died(), None) == [3, 3, 3]
    assert [told[-13:] for told in run.told] == [" retry 1 of 2", " retry 2 of 2"]
    with pytest.raises(
        TrialError, match="its workers failed 3 times, .* The actor experienced an error"
    ):
        run(died(), died(), died())


def test_an_experiment_that_fails_by_itself_is_not_repeated(run):
    with pytest.raises(TrialError, match="the training loss is nan"):
        run(died(TrialError("the training loss is nan")))


def test_a_group_without_room_goes_on_with_the_workers_that_the_cluster_holds(run):
    assert run(died(), no_room(), None) == [3, 3, 2]
    assert run.told[1:] == ["for 7 s the cluster has held 2 workers"]


def test_a_group_that_others_keep_out_waits_for_its_turn(run):
    room = [{"Alive": True, "Resources": {"CPU": 3.0}}]
    assert run(no_room(), no_room(), None, nodes=room) == [3, 3, 3]


@pytest.mark.parametrize(("elastic", "nodes", "held"), [(False, NODES, 2), (True, [], 0)])
def test_a_trial_that_cannot_go_on_says_what_it_needs_and_what_there_is(run, elastic, nodes, held):
    with pytest.raises(
        TrialError, match=f"needs 3 workers, and for 7 s the cluster has held {held}"
    ):
        run(no_room(), elastic=elastic, nodes=nodes)


def test_train_retries_nothing_itself_not_even_where_a_spot_machine_is_taken_back():
    from ray.train import FailureConfig
    from ray.train.v2._internal.execution.failure_handling import create_failure_policy
    from ray.train.v2.api.exceptions import PreemptionError

    for error in (died(), no_room(), PreemptionError(SimpleNamespace(preempted_ranks=[0]))):
        policy = create_failure_policy(FailureConfig(**distributed._no_retries()))
        assert policy.make_decision(error).value == "RAISE"
