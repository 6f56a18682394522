"""A search's history: asked for, told, ended early, and rebuilt after a kill."""

import numpy as np
import optuna
import pytest
from small_searches import SPACE, FakeStudy

from cxr_ray.sweep.ledger import ASKED_FILE


@pytest.fixture
def study(tmp_path):
    return FakeStudy(tmp_path)


def epochs(search, member, values):
    """Report epochs until the search ends the trial; returns its reason."""
    for epoch, value in enumerate(values):
        row = {"epoch": epoch, "val_average_precision": value, "best_epoch": epoch}
        if reason := search.epoch(member, row):
            return reason
    return None


def test_trial_0_has_the_configs_own_values(study):
    study.run(study.search(trials=3))
    assert study.asked()[0].parameters == {"loss.kind": "bce", "train.lr": 0.0001}


def test_what_was_asked_is_on_disk_before_it_is_handed_out(study):
    search = study.search()
    for number in range(3):
        member = search.next()
        assert study.asked()[number].experiment_id == member.trained_id


def test_finished_trials_are_told_and_not_run_again(study):
    first = study.run(study.search(trials=6))
    again = study.search(trials=6)
    assert study.run(again) == []
    assert len(first) == 6
    assert [t.state.name for t in again.study.trials] == ["COMPLETE"] * 6
    assert [t.value for t in again.study.trials] == [0.5] * 6
    more = study.run(study.search(trials=9))
    assert [m.name.rpartition("-")[2] for m in more] == ["t6", "t7", "t8"]


def test_what_a_kill_left_unfinished_is_run_first_with_the_same_parameters(study):
    search = study.search(trials=8)
    done = [search.next() for _ in range(3)]
    study.finish(done[1], [0.4, 0.6])  # its end was never told
    again = study.search(trials=8)
    run = study.run(again)
    assert [m.trained_id for m in run[:2]] == [done[0].trained_id, done[2].trained_id]
    assert len(run) == 7 and len(study.asked()) == 8
    assert len({entry.experiment_id for entry in study.asked()}) == 8
    assert again.waiting == 0


def test_a_line_cut_off_by_a_kill_costs_nothing_but_its_question(study):
    study.run(study.search(trials=3))
    path = study.folder / ASKED_FILE
    path.write_bytes(path.read_bytes()[:-20])
    assert [m.name.rpartition("-")[2] for m in study.run(study.search(trials=3))] == ["t2"]
    assert [entry.number for entry in study.asked()] == [0, 1, 2]


def test_the_rebuilt_study_is_the_one_that_was_lost(study):
    search = study.search(trials=12)
    draws = iter(range(1000))
    study.run(search, lambda member: [0.2, 0.01 * next(draws)])
    rebuilt = study.search(trials=12)
    for one, other in zip(search.study.trials, rebuilt.study.trials, strict=True):
        assert one.params == other.params
        assert one.distributions == other.distributions
        assert one.values == other.values
        assert one.state == other.state
    assert rebuilt.best()[0].asked == search.best()[0].asked


def test_the_pruner_knows_the_rungs_of_trials_from_before_a_kill(study):
    study.run(study.search(trials=6), lambda member: [0.5, 0.6, 0.7, 0.8])
    again = study.search(trials=8)
    assert epochs(again, again.next(), [0.1, 0.2, 0.3]).startswith(
        "pruned at epoch 1: its val_average_precision of 0.1000 is not among the better ones"
    )
    assert epochs(again, again.next(), [0.6, 0.7, 0.8, 0.9]) is None


def test_a_pruned_trial_is_never_run_again(study):
    study.run(study.search(trials=4))
    search = study.search(trials=5)
    member = search.next()
    reason = epochs(search, member, [0.1, 0.1])
    search.ended(member, "pruned", reason)
    assert search.trials[4].reason == reason
    history = [{search.space.objectives[0]: value} for value in search.trials[4].curve]
    study.ended[member.trained_id] = {"status": "pruned", "reason": reason, "history": history}
    again = study.search(trials=6)
    assert [m.name.rpartition("-")[2] for m in study.run(again)] == ["t5"]
    assert again.study.trials[4].state.name == "PRUNED"
    assert again.study.trials[4].intermediate_values == {1: 0.1}


def test_trial_0_is_trained_to_its_end_however_poor_it_is(study):
    search = study.search(trials=6)
    first, others = search.next(), [search.next() for _ in range(5)]
    for member in others:
        epochs(search, member, [0.8, 0.9])
        study.finish(member, [0.8, 0.9])
        search.ended(member, "finished")
    assert epochs(search, first, [0.1, 0.1, 0.1, 0.1]) is None


def test_a_trial_that_ends_by_itself_is_not_pruned_at_its_end(study):
    study.run(study.search(trials=6), lambda member: [0.5, 0.6])
    search = study.search(trials=8)
    last = {"epoch": 7, "val_average_precision": 0.1, "best_epoch": 7}
    assert search.epoch(search.next(), last) is None


def test_a_failed_trial_is_tried_once_more_by_the_next_command(study):
    search = study.search(trials=3)
    member = search.next()
    search.ended(member, "failed")
    study.ended[member.trained_id] = {"status": "failed", "reason": "its process died"}
    study.run(search)
    assert search.study.trials[0].state.name == "FAIL"
    assert [m.trained_id for m in study.run(study.search(trials=3))] == [member.trained_id]


def test_a_figure_that_is_no_number_is_a_failure_and_not_the_best(study):
    search = study.search(trials=4)
    study.run(search, lambda m: [float("nan")] * 2 if m.name.endswith("t0") else [0.4, 0.5])
    assert search.study.trials[0].state.name == "FAIL"
    assert search.best()[0].asked.number != 0


def test_parameters_that_make_the_same_experiment_are_told_and_not_trained_twice(study):
    few = "base: {fusion.modalities: [text]}\nparameters: {loss.kind: {choices: [bce, focal]}}"
    search = study.search(few, trials=6)
    run = study.run(search)
    assert len(run) == 2
    assert [t.state.name for t in search.study.trials] == ["COMPLETE"] * 6
    assert len(search.members) == 2
    assert study.run(study.search(few, trials=6)) == []


def test_trials_of_another_setting_are_no_part_of_the_search(study):
    study.run(study.search(trials=4))
    other = study.search(trials=4, overrides={"train.batch": 32})
    assert other.foreign == [0, 1, 2, 3]
    assert len(study.run(other)) == 4
    assert [entry.number for entry in study.asked()] == list(range(8))
    assert other.reference().asked.number == 4
    back = study.search(trials=4)
    assert study.run(back) == [] and back.foreign == [4, 5, 6, 7]


def test_values_that_do_not_go_together_are_told_as_a_failure(study):
    space = """
base: {fusion.modalities: [text]}
parameters:
  text.width: {choices: [128, 96]}
  text.heads: {choices: [2, 64]}
"""
    search = study.search(space, trials=20)
    study.run(search)
    reasons = [t.reason for t in search.trials.values() if t.status == "failed"]
    assert reasons
    assert all("width 96 is not a multiple of heads 64" in reason for reason in reasons)


def test_only_the_best_weights_and_trial_0s_are_kept(study):
    search = study.search(trials=8, keep=2)
    study.run(search, lambda m: [0.1 * int(m.name[-1]), 0.1 * int(m.name[-1])])
    kept = {
        number
        for number, trial in search.trials.items()
        if (study.storage.trials / trial.asked.experiment_id / "model").exists()
    }
    assert kept == {0, 6, 7}


def test_nothing_is_asked_for_after_the_deadline(study):
    search = study.search(trials=None, deadline=0.0)
    assert search.next() is None and study.asked() == []


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "qmc"])
def test_every_sampler_asks_on_after_a_kill_for_something_new(study, sampler):
    space = SPACE + f"sampler: {sampler}\n"
    study.run(study.search(space, trials=12))
    study.run(study.search(space, trials=20))
    assert len({entry.experiment_id for entry in study.asked()}) == 20


def test_two_objectives_go_on_in_the_generation_that_a_kill_ended(study):
    space = SPACE + "objective: [val_full_auroc, train_seconds]\n"
    search = study.search(space, trials=12)
    study.run(search)
    key = "NSGAIISampler:generation"
    generations = [t.system_attrs.get(key) for t in search.study.trials]
    assert generations[-1] == 1, generations
    again = study.search(space, trials=14)
    study.run(again)
    assert [t.system_attrs.get(key) for t in again.study.trials] == [*generations, 1, 1]
    assert again.study.directions == [
        optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    ]  # fmt: skip


def simulated(study, pruner, seed):
    """Search over made-up learning curves; returns the epochs and the AP that is delivered.

    Slow learners rise late, every epoch's figure is off by .02 as on some 100 positive records, and
    what is delivered is the curve's own height at the epoch that looked best.
    """
    space = SPACE.replace("max_epochs: 8", "max_epochs: 20") + f"pruner: {pruner}\n"
    search = study.search(space, trials=40, overrides={"train.seed": seed})
    trained, heights = 0, {}
    while member := search.next():
        config = member.config
        rate = np.log10(config.train.lr)
        height = 0.75 - 0.04 * (rate + 2.8) ** 2 - 0.3 * max(0, rate + 2.2)
        height += 0.03 - 0.15 * abs(config.loss.alpha - 0.75) if config.loss.kind == "focal" else 0
        speed = 1.2 / (1 + 3 * max(0, -2.8 - rate))
        curve = height - (height - 0.5) * np.exp(-speed * np.arange(1, 21))
        noise = np.random.default_rng(int(member.trained_id, 16)).normal(0, 0.02, 20)
        seen, best, reason = [], 0, None
        while len(seen) < 20 and len(seen) - 1 - best <= config.train.patience and not reason:
            seen.append(float((curve + noise)[len(seen)]))
            best = int(np.argmax(seen))
            row = {"epoch": len(seen) - 1, "val_average_precision": seen[-1], "best_epoch": best}
            reason = search.epoch(member, row)
        trained += len(seen)
        heights[member.trained_id] = curve[best]
        if reason is None:
            study.finish(member, seen)
        search.ended(member, "finished" if reason is None else "pruned")
    return trained, heights[search.best()[0].asked.experiment_id]


def test_asha_uses_at_most_half_of_the_epochs_and_delivers_as_good_a_model(tmp_path):
    shares, differences = [], []
    for seed in range(5):
        outcome = {}
        for pruner in ("asha", "none"):
            folder = tmp_path / f"{seed}-{pruner}"
            folder.mkdir()
            outcome[pruner] = simulated(FakeStudy(folder), pruner, seed)
        shares.append(outcome["asha"][0] / outcome["none"][0])
        differences.append(outcome["asha"][1] - outcome["none"][1])
    assert np.mean(shares) <= 0.5
    assert np.mean(differences) >= -0.01
