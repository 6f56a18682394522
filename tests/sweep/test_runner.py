"""What is left in the driver of a trial that Tune has ended."""

from ray import cloudpickle
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial

from cxr_ray.sweep import runner


def test_of_an_ended_trial_neither_its_job_nor_its_figures_are_kept():
    job = {"experiment_id": "00", "job": "the whole config"}
    trial = Trial(
        "train", stub=True, config=job, evaluated_params=dict(job), experiment_tag=f"1_{job}"
    )
    empty = len(cloudpickle.dumps(vars(Trial("train", stub=True))))
    trial.set_ray_actor(None)
    for epoch in range(12):
        figures = {f"figure {number}": epoch / 3 for number in range(20)}
        trial.update_last_result({**figures, "training_iteration": epoch + 1, "config": dict(job)})
    assert len(cloudpickle.dumps(vars(trial))) > 3 * empty
    runner._lighten(trial)
    left = cloudpickle.dumps(vars(trial))
    assert b"whole config" not in left
    assert len(left) < empty + 200
    # what the ends of Tune and of this package still ask it for
    assert trial.last_result["done"]
    assert runner._identity(trial) == "00"
    trial.get_json_state()


def test_ended_trials_hold_equal_groups_of_slots_together():
    trials = [Trial("train", stub=True, config={"experiment_id": "00"}) for _ in range(3)]
    for trial, cpus in zip(trials, (1, 1, 2), strict=True):
        trial.placement_group_factory = PlacementGroupFactory([{"CPU": cpus}])
        runner._lighten(trial)
    one, two, larger = (trial.placement_group_factory for trial in trials)
    assert one is two
    assert larger == PlacementGroupFactory([{"CPU": 2}])
