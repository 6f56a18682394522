import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.data.prepared import COHORT_FILE, read_cohort
from cxr_ray.errors import InputError
from cxr_ray.report import audit as auditing
from cxr_ray.storage import Storage
from cxr_ray.sweep.auditing import SweepAudit, refuse_overlap


@dataclass(frozen=True)
class Member:
    """What the audit reads of a plan's member."""

    config: object
    keys: object
    source: object
    trained_id: str


@dataclass(frozen=True)
class Plan:
    """Members alone."""

    members: tuple


@pytest.fixture
def audited(phantom, tmp_path):
    """A storage of its own and a plan over it: an image, a text and a multimodal model."""
    configs = [
        tiny_config(),
        tiny_config(fusion__modalities=("image",)),
        tiny_config(fusion__modalities=("text",), text__sections=("indication",)),
    ]
    for config in configs:
        phantom.prepare(config)
    own = PreparedPhantom(Storage.open(str(tmp_path / "storage")))
    shutil.copytree(phantom.storage.root, own.storage.root, dirs_exist_ok=True)
    members = (
        Member(config, own.keys(config), own.source(config), f"{place}")
        for place, config in enumerate(configs)
    )
    return own.storage, Plan(tuple(members))


def test_every_text_view_that_a_model_reads_is_audited_once(audited, monkeypatch):
    storage, plan = audited
    first = SweepAudit(storage, plan).result()
    assert {view.sections for view in first.texts} == {("full",), ("indication",)}
    assert {first.views[i].sections for i in ("0", "2")} == {("full",), ("indication",)}
    assert "1" not in first.views
    kinds = [finding.kind for finding in first.records[plan.members[0].keys.cohort]]
    assert kinds[:2] == ["patient_overlap", "image_copies"]

    for check in ("_check_records", "_check_texts"):
        monkeypatch.setattr(auditing, check, lambda *_: pytest.fail("looked again"))
    assert SweepAudit(storage, plan).result() == first


def test_beside_the_training_the_same_is_found(audited):
    storage, plan = audited
    audit = SweepAudit(storage, plan)
    with ThreadPoolExecutor(max_workers=1) as thread:
        audit.start(thread)
        audit.start(thread)
        found = audit.result()
    shutil.rmtree(storage.prepared / plan.members[0].keys.cohort / "audit")
    assert found == SweepAudit(storage, plan).result()


def test_a_patient_in_two_parts_is_refused_before_training_and_the_records_are_named(audited):
    storage, plan = audited
    SweepAudit(storage, plan).result()
    folder = storage.prepared / plan.members[0].keys.cohort
    cohort = read_cohort(folder)
    one, two = (cohort.index[cohort["part"] == part][0] for part in ("train", "test"))
    cohort.loc[two, "group"] = cohort.loc[one, "group"]
    (folder / COHORT_FILE).write_text(cohort.to_csv(index=False))
    with pytest.raises(InputError, match="1 patient in two or more parts, with 2 records") as error:
        SweepAudit(storage, plan)
    assert all(name in str(error.value) for name in cohort.loc[[one, two], "record_id"])
    assert not any(name in str(error.value) for name in cohort.loc[[one, two], "patient"])


def test_what_is_not_prepared_is_not_audited(audited):
    storage, plan = audited
    shutil.rmtree(storage.prepared / plan.members[0].keys.cohort)
    assert SweepAudit(storage, plan).result().records == {}


def test_a_cohort_with_metadata_of_any_length_is_looked_through_for_overlap(tmp_path):
    rows = [f"g1,train,r1,{'x' * 200_000}", "g1,test,r2,"]
    (tmp_path / COHORT_FILE).write_text("\n".join(["group,part,record_id,ward", *rows]) + "\n")
    with pytest.raises(InputError, match="r1, r2"):
        refuse_overlap(tmp_path)
