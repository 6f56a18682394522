import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from small_studies import SEARCH_SPACES, FakeSource, experiments_of, grid_of, plan_of

from cxr_ray.config.schema import DataConfig
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage
from cxr_ray.sweep.grid import load_grid
from cxr_ray.sweep.plan import Plan, cannot_reach, leave_out_unreachable


@pytest.fixture
def storage(tmp_path):
    return Storage.open(str(tmp_path / "runs"))


@pytest.fixture
def paper12():
    return experiments_of(load_grid(SEARCH_SPACES / "paper12.yaml"))


def counted(plan, positive, records, parts=None):
    """Manifests as they are after preparing."""
    sizes = {"records": records, "positive": positive, "parts": parts or {}}
    return {each.keys.cohort: sizes for each in plan.members}


def test_a_source_with_both_modalities_feeds_every_experiment(monkeypatch, storage, paper12):
    plan = plan_of(monkeypatch, storage, paper12, FakeSource())
    assert [each.name for each in plan.members] == [each.name for each in paper12]
    assert len({each.id for each in plan.members}) == 12
    assert plan.left_out == ()
    assert len(plan.by_cohort()) == 1


def test_a_source_without_images_leaves_out_what_reads_them(monkeypatch, storage, paper12):
    source = FakeSource(modalities=("text",), default=("text",))
    plan = plan_of(monkeypatch, storage, paper12, source)
    assert {each.experiment.modality for each in plan.members} == {"text"}
    assert {each.reason for each in plan.left_out} == {"clinic has no image"}
    assert len(plan.left_out) == 8


def test_images_that_no_record_must_have_feed_no_image_arm(monkeypatch, storage):
    grid = load_grid(SEARCH_SPACES / "paper12.yaml")
    experiments = experiments_of(grid, {"data.require": "text"})
    plan = plan_of(monkeypatch, storage, experiments, FakeSource())
    assert {each.experiment.modality for each in plan.members} == {"text"}
    reasons = {each.reason for each in plan.left_out}
    assert reasons == {"it reads images, and data.require does not ask for them"}


def test_data_that_feeds_nothing_is_refused_with_its_reasons(monkeypatch, storage, paper12):
    source = FakeSource(modalities=(), default=())
    with pytest.raises(InputError) as caught:
        plan_of(monkeypatch, storage, paper12, source)
    assert (
        "can feed no experiment that is asked for: clinic has no image; clinic has no text"
        in str(caught.value)
    )


def test_data_of_one_modality_is_said_to_feed_a_search_that_reads_it_alone(monkeypatch, storage):
    both = experiments_of(load_grid(SEARCH_SPACES / "ratios.yaml"))[:1]
    with pytest.raises(InputError, match=r"no image; --set fusion\.modalities=text reads what it"):
        plan_of(monkeypatch, storage, both, FakeSource(modalities=("text",), default=("text",)))


def test_an_experiment_that_is_there_twice_is_trained_once(monkeypatch, storage, tmp_path):
    grid = grid_of(
        "axes: {loss: {bce: {loss.alpha: .1}, same: {loss.alpha: .2}, focal: {loss.kind: focal}}}",
        tmp_path,
    )
    plan = plan_of(monkeypatch, storage, experiments_of(grid), FakeSource())
    assert [each.name for each in plan.members] == ["multimodal-full-bce", "multimodal-full-focal"]
    (left,) = plan.left_out
    assert left.name == "multimodal-full-same"
    assert left.reason == "it is the same experiment as multimodal-full-bce"


def test_a_cohort_override_that_the_source_does_not_read_is_refused(monkeypatch, storage, paper12):
    override = {"cohort.view": "AP"}
    with pytest.raises(InputError) as caught:
        plan_of(monkeypatch, storage, paper12, FakeSource(), override)
    assert str(caught.value) == (
        "cohort.view is set, and table data does not read it; the cohort fields that it reads: "
        "label"
    )
    plan_of(monkeypatch, storage, paper12, FakeSource(), {"cohort.label": "Edema"})


def test_phantom_overrides_are_refused_for_other_data(monkeypatch, storage, paper12):
    override = {"phantom.patients": 50}
    with pytest.raises(InputError, match=r"phantom\.patients is set, and only --data phantom"):
        plan_of(monkeypatch, storage, paper12, FakeSource(), override)
    plan_of(monkeypatch, storage, paper12, FakeSource(kind="phantom"), override)


def test_a_share_above_the_cohorts_own_is_left_out_with_both_figures(monkeypatch, storage):
    experiments = experiments_of(load_grid(SEARCH_SPACES / "ratios.yaml"))
    plan = plan_of(monkeypatch, storage, experiments, FakeSource())
    reachable = leave_out_unreachable(plan, counted(plan, positive=25, records=100))
    datasets = {each.experiment.dataset for each in reachable.members}
    assert datasets == {"full", "sub70", "sub60", "sub50"}
    reasons = {each.name: each.reason for each in reachable.left_out}
    assert (
        reasons["multimodal-sub80-bce"] == "its majority share 0.8 is above the cohort's own, 0.750"
    )
    assert len(reasons) == 4


def test_a_share_that_is_hardly_above_the_cohorts_own_reads_as_above_it():
    records = {"records": 1998, "positive": 200, "parts": {}}
    assert cannot_reach(0.9, records) == "its majority share 0.9 is above the cohort's own, 0.899"


def test_a_positive_majority_counts_as_well(monkeypatch, storage, paper12):
    plan = plan_of(monkeypatch, storage, paper12, FakeSource())
    mirrored = [leave_out_unreachable(plan, counted(plan, positive, 100)) for positive in (20, 80)]
    assert mirrored[0] == mirrored[1] == plan


def test_nothing_left_to_train_is_refused(monkeypatch, storage):
    grid = load_grid(SEARCH_SPACES / "paper12.yaml")
    experiments = experiments_of(grid, only=["dataset=sub75"])
    plan = plan_of(monkeypatch, storage, experiments, FakeSource())
    with pytest.raises(InputError, match=r"nothing is left to train: .* 0\.75 is above .* 0\.500"):
        leave_out_unreachable(plan, counted(plan, positive=50, records=100))


@given(percent=st.integers(50, 99), hundreds=st.integers(1, 300))
def test_a_share_equal_to_the_cohorts_own_is_reached(percent, hundreds):
    with pytest.MonkeyPatch.context() as patch:
        grid = load_grid(SEARCH_SPACES / "paper12.yaml")
        (experiment, *_) = experiments_of(grid, only=["dataset=full"])
        data = DataConfig(majority_share=percent / 100)
        config = experiment.config.model_copy(update={"data": data})
        at_share = type(experiment)(config, experiment.levels)
        plan = plan_of(patch, Storage.open("unused", create=False), [at_share], FakeSource())
    manifests = counted(plan, positive=hundreds * (100 - percent), records=hundreds * 100)
    assert leave_out_unreachable(plan, manifests).left_out == ()


def test_the_data_key_is_of_the_data_and_not_of_the_grid(monkeypatch, storage, paper12):
    def key(experiments, **source):
        plan: Plan = plan_of(monkeypatch, storage, experiments, FakeSource(**source))
        return plan.data_key

    views = experiments_of(load_grid(SEARCH_SPACES / "text_views.yaml"))
    assert key(paper12) == key(views) == key(paper12, name="renamed")
    assert key(paper12, content="1" * 64) != key(paper12)


def test_absent_weights_leave_a_plan_without_ids_that_training_refuses(
    monkeypatch, storage, tmp_path
):
    grid = load_grid(SEARCH_SPACES / "paper12.yaml")
    absent = {"text.encoder": str(tmp_path / "bert")}
    plan = plan_of(monkeypatch, storage, experiments_of(grid, absent), FakeSource())
    assert len(plan.members) == 12
    pending = [each for each in plan.members if each.id is None]
    assert {each.experiment.modality for each in pending} == {"multimodal", "text"}
    with pytest.raises(InputError, match=r"text\.encoder .*bert: no such folder; it should hold"):
        pending[0].trained_id  # noqa: B018


def test_a_folder_that_lacks_its_tokenizer_is_named_and_not_the_image_weights(
    monkeypatch, storage, tmp_path
):
    save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    experiments = experiments_of(
        load_grid(SEARCH_SPACES / "text_views.yaml"), {"text.encoder": str(tmp_path)}
    )
    plan = plan_of(monkeypatch, storage, experiments, FakeSource())
    with pytest.raises(InputError, match=r"text\.encoder .*: files are missing in this folder"):
        plan.members[0].trained_id  # noqa: B018


def test_absent_image_weights_are_named(monkeypatch, storage, tmp_path):
    absent = {"image.encoder": "resnet50", "image.weights": str(tmp_path / "weights.pth")}
    grid = load_grid(SEARCH_SPACES / "paper12.yaml")
    plan = plan_of(monkeypatch, storage, experiments_of(grid, absent), FakeSource())
    with pytest.raises(
        InputError, match=r"image\.weights .*weights\.pth: no such file; .*resnet50"
    ):
        plan.members[0].trained_id  # noqa: B018


def test_a_share_that_one_part_cannot_reach_is_left_out_with_the_part(
    monkeypatch, storage, paper12
):
    plan = plan_of(monkeypatch, storage, paper12, FakeSource())
    parts = {"train": {"n": 1000, "n_positive": 100}, "val": {"n": 100, "n_positive": 40}}
    thinned = leave_out_unreachable(plan, counted(plan, 140, 1100, parts))
    assert len(thinned.members) == 6
    assert {each.reason for each in thinned.left_out} == {
        "its majority share 0.75 is above that of the part val, 0.600"
    }


def test_radiologists_labels_are_no_training_labels(monkeypatch, tmp_path):
    grid = grid_of("axes: {loss: {bce: {loss.kind: bce}}}", tmp_path)
    asked = {"cohort.labels": "radiologist"}
    source = FakeSource(reads=frozenset({"labels"}))
    with pytest.raises(InputError, match="launch/evaluate.py tests trained models on them"):
        plan_of(monkeypatch, Storage(tmp_path), experiments_of(grid, asked), source, asked)
