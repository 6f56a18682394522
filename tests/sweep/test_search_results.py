"""What a search leaves behind: its table, importance, pictures, best config and Optuna storage."""

import itertools
import math

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from small_searches import FakeStudy

from cxr_ray.config.layers import Layer, load_profile
from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.sweep.grid import expand, load_grid
from cxr_ray.sweep.search_pictures import _draw_slices, measure_importance
from cxr_ray.sweep.search_results import write_results
from cxr_ray.sweep.study import Study

SPACE = """
base: {fusion.modalities: [text], train.max_epochs: 8}
parameters:
  loss.kind: {choices: [bce, focal]}
  loss.alpha: {float: [0.5, 0.95], when: {loss.kind: focal}}
  data.majority_share: {choices: [null, 0.75]}
  train.lr: {float: [1.0e-5, 1.0e-2], log: true}
sampler: random
"""
COMMAND = "python launch/sweep.py --search mine --trials 30 --keep=2 --profile tiny"


def by_rate(member):
    """A learning curve that depends on the learning rate and on nothing else."""
    height = 0.8 - 0.1 * abs(math.log10(member.config.train.lr) + 3)
    return [height / 2, height]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    fake = FakeStudy(tmp_path_factory.mktemp("results"))
    search = fake.search(SPACE, trials=30)
    fake.run(search, by_rate)
    record = {"name": "mine", "command": COMMAND, "search": {}, "members": []}
    study = Study("mine", "0" * 32, fake.folder, record)
    text = "\n".join(write_results(study, fake.storage, search, EvaluationConfig()))
    return fake, search, study, text


def test_the_table_holds_every_trial_and_tells_a_chosen_null_from_what_does_not_exist(searched):
    fake, search, _, text = searched
    table = pd.read_csv(fake.folder / "search.csv")
    assert len(table) == 30 and (table["status"] == "done").all()
    assert set(table["data.majority_share"]) == {"none", "0.75"}
    assert (table["loss.alpha"].isna() == (table["loss.kind"] == "bce")).all()
    best = table["val_average_precision"].idxmax()
    assert search.best()[0].asked.number == best
    assert f"\nt{best} " in text and "\nt0 " in text  # the best, and trial 0 wherever it stands


def test_the_parameter_that_decides_is_the_important_one(searched):
    fake, search, _, _ = searched
    table = measure_importance(search).set_index("parameter")
    assert table["importance"].idxmax() == "train.lr"
    assert table.loc["train.lr", "importance"] > 0.8
    focal = sum(e.parameters["loss.kind"] == "focal" for e in fake.asked())
    assert table.loc["loss.alpha", "trials"] == focal < 30
    assert table.loc["train.lr", "trials"] == 30


def test_few_trials_give_no_importance(tmp_path):
    fake = FakeStudy(tmp_path)
    search = fake.search(SPACE, trials=9)
    fake.run(search, by_rate)
    assert measure_importance(search).empty


def test_where_most_are_pruned_importance_is_of_what_all_reached_after_the_same_epochs(tmp_path):
    fake = FakeStudy(tmp_path)
    search = fake.search(SPACE, trials=24)
    for count in range(24):
        member = search.next()
        half, whole = by_rate(member)
        if count < 4:
            fake.finish(member, [half, whole])
            search.ended(member, "finished")
            continue
        search.epoch(member, {"epoch": 0, "best_epoch": 0, "val_average_precision": half})
        search.ended(member, "pruned", "as the pruner says")
    table = measure_importance(search)
    assert (table["measured"] == "val_average_precision after 1 epoch").all()
    assert table.set_index("parameter").loc["train.lr", ["importance", "trials"]].tolist() == [
        pytest.approx(table["importance"].max()), 24
    ]  # fmt: skip


def test_pictures_are_drawn_and_leave_the_style_of_others_alone(searched):
    import matplotlib

    fake, *_ = searched
    names = {path.name for path in fake.folder.glob("search_*.png")}
    assert names == {f"search_{n}.png" for n in ("history", "slice", "importance", "contour")}
    assert matplotlib.rcParams["axes.facecolor"] == "white"


def test_labels_of_a_narrow_logarithmic_axis_stand_apart(searched):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    _, search, *_ = searched
    figure = _draw_slices(search, list(search.trials.values())).figure
    (axes,) = [each for each in figure.axes if each.get_xlabel() == "train.lr"]
    axes.set_xlim(3.2e-4, 3e-3)
    FigureCanvasAgg(figure).draw()
    labels = [text for text in axes.get_xticklabels(which="both") if text.get_text()]
    inside = sorted(
        (text.get_window_extent().x0, text.get_window_extent().x1)
        for text in labels
        if 3.2e-4 <= text.get_position()[0] <= 3e-3
    )
    assert len(inside) >= 3
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(inside))


def test_two_objectives_have_a_front_and_no_contour_of_one(tmp_path):
    fake = FakeStudy(tmp_path)
    search = fake.search(
        SPACE.replace("sampler: random", "objective: [val_full_auroc, train_seconds]")
    )
    fake.run(search, by_rate)
    record = {"name": "mine", "command": COMMAND, "search": {}, "members": []}
    study = Study("mine", "0" * 32, fake.folder, record)
    write_results(study, fake.storage, search, EvaluationConfig())
    assert (fake.folder / "search_pareto.png").exists()
    assert {"val_full_auroc", "train_seconds"} <= set(pd.read_csv(fake.folder / "search.csv"))


def test_the_winner_beside_trial_0_is_a_grid_with_the_command_that_trains_both(searched):
    fake, search, study, _ = searched
    grid = load_grid(fake.folder / "best.yaml")
    found = expand(grid, load_profile("tiny"), Layer("--set", {}), seeds=2)
    assert [e.name for e in found[::2]] == [
        "text-full-bce-trial_0", f"text-{found[2].dataset}-{found[2].loss}-found"
    ]  # fmt: skip
    best = search.best()[0].member.config
    assert found[2].config.train.lr == best.train.lr and found[2].config.loss == best.loss
    assert {e.config.train.monitor for e in found} == {"val_average_precision"}
    command = "python launch/sweep.py --profile tiny --grid STORAGE/studies/mine/best.yaml"
    assert list(study.record["search"]["commands"].values()) == [
        f"{command} --seeds 5 --study mine-best",
        f"{command} --set data.split.kind=kfold --study mine-best-folds",
    ]
    # what the winner was picked by is tested by no fit
    assert {e.config.data.split.validation for e in found} == {"holdout"}


def test_optunas_storage_is_a_copy_with_every_trial(searched):
    fake, search, *_ = searched
    journal = JournalStorage(JournalFileBackend(str(fake.folder / "optuna.log")))
    copy = optuna.load_study(study_name="mine", storage=journal)
    assert [t.params for t in copy.trials] == [t.params for t in search.study.trials]
    assert [t.values for t in copy.trials] == [t.values for t in search.study.trials]
    assert not list(fake.folder.glob(".optuna*"))
