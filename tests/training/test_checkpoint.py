"""A training that ended before its time is continued from its checkpoint."""

import json
import shutil

import numpy as np
import pytest
import torch
from prepared_phantom import tiny_config
from short_trainings import ALL_OF_FUSION, COMPUTE, same_weights, trained, weights, without_seconds

from cxr_ray.errors import TrialStopped
from cxr_ray.training.checkpoint import (
    BEST_FILE,
    COMPUTE_FILE,
    LAST_FILE,
    adopt_checkpoint,
    load_state,
    read_compute,
    save_state,
)
from cxr_ray.training.job import FEWEST_WORKERS
from cxr_ray.training.loop import score
from cxr_ray.training.world import World

pytestmark = pytest.mark.usefixtures("one_thread")


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    "fusion",
    [
        {"fusion__modalities": "image"},
        {"fusion__modalities": "text"},
        {"image__freeze": "conv1,layer1", "text__freeze": "all"},
        ALL_OF_FUSION,
    ],
)
@pytest.mark.parametrize("how", ["after_an_epoch", "inside_an_epoch"])
def test_an_interrupted_training_continues_to_the_same_bits(phantom, tmp_path, fusion, how):
    config = tiny_config(**fusion, text__dropout=0.2, image__shift=0.05)
    whole, model, arm = trained(phantom, config, tmp_path / "whole")

    def break_after_second(row):
        if row["epoch"] == 1:
            raise Interrupted

    steps = iter(range(100))
    attempts = tmp_path / "attempts"
    attempts.mkdir()
    first, second = attempts / "first", attempts / "second"
    with pytest.raises(Interrupted if how == "after_an_epoch" else TrialStopped):
        if how == "after_an_epoch":
            trained(phantom, config, first, report=break_after_second)
        else:
            trained(phantom, config, first, should_stop=lambda: next(steps) == 3)
    torch.rand(11)  # another process starts with another state
    assert adopt_checkpoint(attempts, second, COMPUTE)
    assert load_state(second / LAST_FILE)["epoch"] == (2 if how == "after_an_epoch" else 1)
    continued, again, _ = trained(phantom, config, second)
    frozen = {name for name, value in again.named_parameters() if not value.requires_grad}
    assert bool(frozen) is ("text__freeze" in fusion)
    assert not frozen & load_state(second / LAST_FILE)["model"].keys()
    assert without_seconds(continued) == without_seconds(whole)
    assert same_weights(weights(again), weights(model))
    records = arm.indices("test", own=False)
    ours, theirs = (score(config, arm, m, records, World()).logits for m in (again, model))
    assert np.array_equal(ours, theirs)


def test_a_finished_training_that_is_continued_trains_no_more(phantom, tmp_path):
    config = tiny_config(fusion__modalities="text")
    history, model, _ = trained(phantom, config, tmp_path)
    rows = []
    again, same, _ = trained(phantom, config, tmp_path, report=rows.append)
    # A driver that was killed has not heard them.
    assert [row["epoch"] for row in rows] == [row["epoch"] for row in history]
    assert again == history
    assert same_weights(weights(same), weights(model))


def test_the_furthest_checkpoint_of_earlier_attempts_is_adopted_and_stays_where_it_was(
    phantom, tmp_path
):
    config = tiny_config(fusion__modalities="text")
    for name, epochs in (("near", 1), ("far", 2)):
        trained(
            phantom,
            tiny_config(fusion__modalities="text", train__max_epochs=epochs),
            tmp_path / name,
        )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / LAST_FILE).write_bytes(b"")  # its best weights never came
    assert adopt_checkpoint(tmp_path, tmp_path / "new", COMPUTE)
    assert load_state(tmp_path / "new" / LAST_FILE)["epoch"] == 2
    assert (tmp_path / "far" / BEST_FILE).exists()
    assert len(trained(phantom, config, tmp_path / "new")[0]) == 3


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", [LAST_FILE, BEST_FILE])
def test_a_damaged_checkpoint_is_none_and_an_earlier_one_is_continued(tmp_path, name, share):
    for attempt, epochs in (("old", 1), ("cut", 2), ("own", 3)):
        (tmp_path / attempt).mkdir()
        save_state(tmp_path / attempt / BEST_FILE, {"w": torch.zeros(1000)})
        save_state(tmp_path / attempt / LAST_FILE, {"w": torch.zeros(1000), "epoch": epochs})
        (tmp_path / attempt / COMPUTE_FILE).write_text(json.dumps(COMPUTE))
    for attempt in ("cut", "own"):
        whole = (tmp_path / attempt / name).read_bytes()
        (tmp_path / attempt / name).write_bytes(whole[: int(share * len(whole))])
    assert adopt_checkpoint(tmp_path, tmp_path / "own", COMPUTE)
    assert load_state(tmp_path / "own" / LAST_FILE)["epoch"] == 1
    shutil.rmtree(tmp_path / "old")
    assert not adopt_checkpoint(tmp_path, tmp_path / "new", {**COMPUTE, "workers": 3})
    shutil.rmtree(tmp_path / "own")
    assert not adopt_checkpoint(tmp_path, tmp_path / "cut", COMPUTE)
    assert not (tmp_path / "cut" / LAST_FILE).exists()  # nothing that training would read


def test_a_checkpoint_of_another_arithmetic_is_not_continued(phantom, tmp_path):
    trained(phantom, tiny_config(fusion__modalities="text"), tmp_path / "old")
    for name, changed in (("precise", {"precision": "float64"}), ("many", {"workers": 2})):
        assert not adopt_checkpoint(tmp_path, tmp_path / name, {**COMPUTE, **changed})
    assert adopt_checkpoint(tmp_path, tmp_path / "alike", COMPUTE)


def test_a_checkpoint_whose_workers_were_lost_is_continued_by_others_and_tells_it(
    phantom, tmp_path
):
    trained(phantom, tiny_config(fusion__modalities="text"), tmp_path / "old")
    two = {**COMPUTE, "workers": 2}
    (tmp_path / "old" / COMPUTE_FILE).write_text(json.dumps(two))
    fewer = {**two, FEWEST_WORKERS: 1}
    assert adopt_checkpoint(tmp_path, tmp_path / "left", fewer)
    assert read_compute(tmp_path / "left") == fewer
    shutil.rmtree(tmp_path / "old")
    assert adopt_checkpoint(tmp_path, tmp_path / "whole", two)  # the lost one is back
    assert read_compute(tmp_path / "whole") == fewer
    assert adopt_checkpoint(tmp_path, tmp_path / "whole", two)  # it lost its process
    assert read_compute(tmp_path / "whole") == fewer
    assert not adopt_checkpoint(tmp_path, tmp_path / "asked", COMPUTE)  # for one worker


def test_adopting_while_the_earlier_worker_saves_pairs_no_state_with_an_older_best(
    tmp_path, monkeypatch
):
    """The earlier worker saves a better epoch between the two copies."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / COMPUTE_FILE).write_text(json.dumps(COMPUTE))

    def save_epoch(epoch):
        save_state(old / BEST_FILE, {"made_in": epoch})
        save_state(old / LAST_FILE, {"epoch": epoch + 1, "best_epoch": epoch})

    save_epoch(0)
    copy, copies = shutil.copyfile, []

    def copy_and_save(source, target):
        copy(source, target)
        copies.append(target)
        if len(copies) == 1:
            save_epoch(1)

    monkeypatch.setattr(shutil, "copyfile", copy_and_save)
    assert adopt_checkpoint(tmp_path, new, COMPUTE)
    state = load_state(new / LAST_FILE)
    assert load_state(new / BEST_FILE)["made_in"] >= state["best_epoch"]


def test_the_first_attempt_has_nothing_to_adopt(tmp_path):
    assert not adopt_checkpoint(tmp_path, tmp_path / "first", COMPUTE)
