import json
from dataclasses import replace

import pytest
from small_studies import SEARCH_SPACES, FakeSource, experiments_of, plan_of

from cxr_ray.errors import InputError
from cxr_ray.storage import Storage
from cxr_ray.sweep.grid import load_grid
from cxr_ray.sweep.study import check_name, check_study, open_study


@pytest.fixture
def storage(tmp_path):
    return Storage.open(str(tmp_path / "runs"))


@pytest.fixture
def plan(monkeypatch, storage):
    """Make a plan over paper12, or a part of it, or over other data."""

    def make(axes=None, overrides=None, **source):
        grid = load_grid(SEARCH_SPACES / "paper12.yaml")
        experiments = experiments_of(replace(grid, **(axes or {})), overrides)
        return plan_of(monkeypatch, storage, experiments, FakeSource(**source))

    return make


def opened(storage, plan, name="first", profile="demo", grid_text="axes: …"):
    return open_study(
        storage,
        name,
        plan,
        profile=profile,
        grid_name="paper12",
        grid_text=grid_text,
        title="Which is best?",
        axes={"modality": {"image": {}, "text": {}}},
        compare={"modality": "text"},
        data="table:x.yaml",
        command="python launch/sweep.py",
        git_commit=None,
    )


def read(study):
    return json.loads((study.folder / "study.json").read_text())


def test_a_new_study_records_its_members_and_what_they_were_made_from(storage, plan):
    planned = plan(content="7" * 64)
    record = read(opened(storage, planned))
    assert record["data_key"] == planned.data_key
    assert (record["profile"], record["grid_text"]) == ("demo", "axes: …")
    assert record["axes"] == {"modality": ["image", "text"]}
    assert record["compare"] == {"modality": "text"}
    ids = [each["experiment_id"] for each in record["members"]]
    assert ids == [each.id for each in planned.members]
    assert record["members"][3] == {
        "experiment_id": ids[3],
        "name": "multimodal-sub75-focal",
        "modality": "multimodal",
        "dataset": "sub75",
        "loss": "focal",
        "seed": 0,
        "further": {},
    }


def test_what_was_left_out_is_recorded_with_its_reason(storage, plan):
    record = read(opened(storage, plan(modalities=("image",), default=("image",))))
    assert len(record["members"]) == 4
    assert {each["reason"] for each in record["left_out"]} == {"clinic has no text"}
    assert record["left_out"][0]["levels"] == {
        "modality": "multimodal", "dataset": "full", "loss": "bce",
    }  # fmt: skip


def test_opening_a_study_again_keeps_its_uuid(storage, plan):
    first, again = opened(storage, plan()), opened(storage, plan())
    assert first.uuid == again.uuid == check_study(storage, "first", plan(), "demo")
    assert opened(storage, plan(), name="second").uuid != first.uuid


def test_an_edited_grid_or_override_makes_the_study_the_new_product(storage, plan):
    first = opened(storage, plan())
    text_only = {"axes": {"modality": {"text": {"fusion.modalities": ["text"]}}}}
    again = opened(storage, plan({**text_only, "combinations": ()}), grid_text="axes: …, edited")
    assert again.uuid == first.uuid
    assert len(read(again)["members"]) == 1
    other = opened(storage, plan(overrides={"train.lr": 0.5}))
    assert other.uuid == first.uuid
    assert {each["experiment_id"] for each in read(other)["members"]}.isdisjoint(
        each["experiment_id"] for each in first.record["members"]
    )


def test_the_name_of_a_study_on_other_data_is_refused(storage, plan):
    opened(storage, plan())
    with pytest.raises(InputError) as caught:
        opened(storage, plan(content="1" * 64))
    assert str(caught.value) == (
        "study first in this storage was made with other data; give this one a name of its own "
        "with --study"
    )


def test_the_name_of_a_study_with_another_profile_is_refused(storage, plan):
    before = read(opened(storage, plan()))
    with pytest.raises(InputError, match="made with the profile demo; .* --study"):
        opened(storage, plan(), profile="paper")
    assert json.loads((storage.studies / "first" / "study.json").read_text()) == before


def test_a_study_that_is_not_there_has_no_uuid_and_checking_writes_nothing(storage, plan):
    assert check_study(storage, "first", plan(), "demo") is None
    assert list(storage.studies.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../up", "a\\b", "a\nb", "a\0b"])
def test_a_study_name_is_a_plain_folder_name(name):
    with pytest.raises(InputError, match="should be a plain name"):
        check_name(name)


def test_failed_trials_are_remembered_until_they_finish(storage, plan):
    study = opened(storage, plan())
    assert study.ended() == {}
    study.write_ended("abc", {"status": "failed", "reason": "the loss is not finite"})
    study.write_ended("def", {"status": "pruned", "reason": "late", "history": [{"epoch": 0}]})
    assert study.ended()["abc"] == {"status": "failed", "reason": "the loss is not finite"}
    study.ended_file("abc").unlink()
    assert list(study.ended()) == ["def"]


def test_members_that_leave_a_study_are_told(storage, plan):
    assert opened(storage, plan()).changes == ()
    (sentence,) = opened(storage, plan(overrides={"train.lr": 0.5})).changes
    assert sentence.startswith("12 members leave the study first")
    assert opened(storage, plan(overrides={"train.lr": 0.5})).changes == ()


FOLDS = {"data.split.kind": "kfold", "data.split.folds": 3, "data.split.repeats": 2}


def test_the_fits_of_a_cross_validation_are_one_member_with_an_id_of_their_own(storage, plan):
    planned = plan(overrides=FOLDS)
    assert len(planned.members) == 12 * 6
    assert len(planned.by_cohort()) == 1
    members = read(opened(storage, planned))["members"]
    assert len({member["experiment_id"] for member in members}) == len(members) == 12
    first = members[0]
    assert first["name"] == "multimodal-full-bce"
    names = [fit["name"] for fit in first["fits"]]
    assert names == [f"multimodal-full-bce-r{r}f{f}" for r in (1, 2) for f in (1, 2, 3)]
    assert (first["fits"][4]["repeat"], first["fits"][4]["fold"]) == (2, 2)
    ids = [fit["experiment_id"] for member in members for fit in member["fits"]]
    assert ids == [each.id for each in planned.members]


def test_a_member_of_which_a_fit_failed_has_ended_and_names_it(storage, plan):
    planned = plan(overrides=FOLDS)
    study = opened(storage, planned)
    member = study.record["members"][2]
    lost = member["fits"][4]["experiment_id"]
    study.write_ended(lost, {"status": "failed", "reason": "the loss is not finite"})
    assert study.describe(next(m for m in planned.members if m.id == lost)) == member
    ended = study.ended()[member["experiment_id"]]
    assert ended["status"] == "failed"
    assert ended["reason"] == (
        f"1 of its fits failed; {member['name']}-r2f2: the loss is not finite"
    )
    study.ended_file(lost).unlink()
    assert study.ended() == {}


def test_a_cross_validation_that_cannot_be_fed_is_left_out_once(storage, plan):
    planned = plan(overrides=FOLDS, modalities=("text",), default=("text",))
    assert len(planned.members) == 4 * 6
    assert len(planned.left_out) == 8
    assert all("-r" not in each.name for each in planned.left_out)
