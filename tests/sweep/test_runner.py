"""What is left in the driver of trials that Tune has ended."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import ray
from ray import tune

from cxr_ray.sweep.runner import _AsHandedOut, _Silence, start_ray

TRIALS = 8


class Named:
    """Equal to itself alone, as Tune's trials are in its sets."""

    def __init__(self, name):
        self.trial_id = name


def test_of_all_trials_only_ended_ones_are_forgotten():
    done, lost, runs, waits = map(Named, "abcd")
    controller = SimpleNamespace(
        _trials=[done, runs, lost, waits],
        _stopped_trials={done},
        _failed_trials={lost},
        _live_trials={runs, waits, lost},
        _trials_to_cache={done, runs},
        _trial_metadata={"a": "done", "c": "runs"},
    )
    held = controller._trials
    _AsHandedOut().choose_trial_to_run(SimpleNamespace(_tune_controller=controller))
    assert controller._trials is held  # Tune's callbacks have been given it
    assert held == [runs, waits]
    assert not controller._stopped_trials | controller._failed_trials
    assert controller._live_trials == {runs, waits}
    assert controller._trials_to_cache == {runs}
    assert controller._trial_metadata == {"c": "runs"}


class Watch(tune.Callback):
    """Counts, at every start, the trials that Tune lists and those that anybody holds."""

    def __init__(self):
        self.started, self.listed, self.held = weakref.WeakSet(), [], []

    def __getstate__(self):
        return {}

    def on_trial_start(self, iteration, trials, trial, **_):
        gc.collect()
        self.started.add(trial)
        self.listed.append(len(trials))
        self.held.append(len(self.started))


@pytest.mark.slow
def test_tune_holds_no_trial_that_has_ended(tmp_path):
    def one_fails(config):
        if config["number"] == 3:
            raise ValueError("a fault of its own")
        tune.report({"number": config["number"]})

    watch = Watch()
    start_ray(None)
    try:
        tune.Tuner(
            one_fails,
            param_space={"number": tune.grid_search(list(range(TRIALS)))},
            tune_config=tune.TuneConfig(
                scheduler=_AsHandedOut(), max_concurrent_trials=1, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path), verbose=0, callbacks=[watch, _Silence()]
            ),
        ).fit()
    finally:
        ray.shutdown()
    assert len(watch.started) < TRIALS == len(watch.listed)
    # Tune asks for a trial ahead.
    assert max(watch.listed) <= 3 and max(watch.held) <= 4
