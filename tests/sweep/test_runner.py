"""What is left in the driver of trials that Tune has ended."""

import gc
import weakref

import pytest
import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from cxr_ray.sweep.runner import _AsHandedOut, _Silence, start_ray

TRIALS = 12


class Watch(tune.Callback):
    """Holds what has started, as long as somebody else does, and counts what Tune lists."""

    def __init__(self):
        self.started, self.listed = weakref.WeakSet(), []
        self.left = []

    def __getstate__(self):
        return {}

    def on_trial_start(self, iteration, trials, trial, **_):
        gc.collect()
        self.started.add(trial)
        self.listed.append(len(trials))
        self.left.append(len(self.started))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "most"), [(FIFOScheduler, TRIALS), (_AsHandedOut, 4)], ids=["tune", "ours"]
)
def test_an_ended_trial_is_forgotten(scheduler, most, tmp_path):
    watch = Watch()
    start_ray(None)
    try:
        tune.Tuner(
            lambda config: tune.report({"number": config["number"]}),
            param_space={"number": tune.grid_search(list(range(TRIALS)))},
            tune_config=tune.TuneConfig(
                scheduler=scheduler(), max_concurrent_trials=1, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path), verbose=0, callbacks=[watch, _Silence()]
            ),
        ).fit()
    finally:
        ray.shutdown()
    assert len(watch.listed) == TRIALS
    # Tune asks for a trial ahead.
    assert max(watch.left) <= most and max(watch.listed) <= most
    assert (max(watch.left) == TRIALS) == (scheduler is FIFOScheduler)
