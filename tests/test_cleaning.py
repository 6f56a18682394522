import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.cleaning import LEFTOVERS, free, survey
from cxr_ray.config.identity import PREPARE_VERSION
from cxr_ray.errors import InputError
from cxr_ray.lease import acquire_lease, is_held
from cxr_ray.storage import Storage

ROOT = Path(__file__).resolve().parents[1]
HEX = "0123456789abcdef" * 2
ALL = (LEFTOVERS, "unfinished", "trials", "packs", "frozen")
DAY = 86_400


def write(path, content="x" * 5000):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def age(storage):
    """Let everything in a storage be a day old."""
    for path in [storage.root, *storage.root.rglob("*")]:
        os.utime(path, (time.time() - DAY,) * 2, follow_symlinks=False)


def names(storage, found):
    return {str(each.path.relative_to(storage.root)) for each in found}


@pytest.fixture
def storage(tmp_path):
    """A study with a finished, a pruned and an unfinished trial, and what lies beside it."""
    storage = Storage.open(str(tmp_path / "runs"))
    storage.salt()
    members = [{"experiment_id": name, "name": name} for name in ("done", "pruned", "waiting")]
    study = {"name": "held", "uuid": "u", "members": members, "cohorts": ["c1"]}
    write(storage.studies / "held" / "study.json", json.dumps(study))
    ended = json.dumps({"status": "pruned", "reason": "asha"})
    write(storage.studies / "held" / "ended" / "pruned.json", ended)
    keys = {"cohort": "c1", "image": "a1", "text": "b1", "tokenizer": "d1"}
    for trial in ("done", "orphan"):
        result = {"experiment_id": trial, "keys": keys, "parts": ["val", "test"]}
        write(storage.trials / trial / "result.json", json.dumps(result))
        write(storage.trials / trial / "model" / "model.safetensors")
    write(storage.trials / "done" / f".figures.{HEX}" / "roc.png")
    for cohort in ("c1", "c2"):
        manifest = {"prepare_version": PREPARE_VERSION, "fingerprint": cohort * 8}
        write(storage.prepared / cohort / "manifest.json", json.dumps(manifest))
        for pack in ("images-a1", "images-a2", "text-b1", "tokenizer-d1", "frozen/e1"):
            write(storage.prepared / cohort / pack / "data.npy")
    write(storage.prepared / "c1" / "images-a3.partial" / "images.npy")
    write(storage.prepared / "c1" / "images-a1.partial" / "images.npy")
    write(storage.prepared / ("phantom-" + "c1" * 8) / "files" / "film.jpg")
    write(storage.prepared / ("phantom-" + "c2" * 8) / "files" / "film.jpg")
    write(storage.prepared / ".phantom-c1c1-abc_d" / "film.jpg")
    for trial in ("done", "pruned", "waiting", "nobody"):
        write(storage.running / trial / HEX / "last.pt")
    write(storage.root / f".mlflow.db.{HEX}")
    write(storage.root / "mlflow.db")
    age(storage)
    return storage


def finish(storage):
    """Let the study be complete, so that it is known which packs it reads."""
    path = storage.studies / "held" / "study.json"
    study = json.loads(path.read_text())
    study["members"] = [m for m in study["members"] if m["experiment_id"] != "waiting"]
    path.write_text(json.dumps(study))
    age(storage)


def test_what_is_safe_is_told_from_what_must_be_asked_for(storage):
    finish(storage)
    found = survey(storage)
    assert len({each.path for each in found}) == len(found)
    offered = {kind: names(storage, [e for e in found if e.free == kind]) for kind in ALL}
    assert offered == {
        LEFTOVERS: {
            f"trials/done/.figures.{HEX}",
            f".mlflow.db.{HEX}",
            "prepared/.phantom-c1c1-abc_d",
            "prepared/c1/images-a1.partial",
            "running/done",
            "running/pruned",
        },
        "unfinished": {"prepared/c1/images-a3.partial", "running/waiting", "running/nobody"},
        "trials": {"trials/orphan"},
        "packs": {"prepared/c1/images-a2", "prepared/c2", "prepared/phantom-" + "c2" * 8},
        "frozen": {"prepared/c1/frozen/e1"},
    }
    (pack,) = [each for each in found if each.path.name == "text-b1"]
    assert pack.said == "tokens of held, trial orphan" and pack.size >= 5000


def test_removing_all_that_is_offered_leaves_all_that_the_study_holds(storage):
    finish(storage)
    kept = [each.path for each in survey(storage) if not each.free]
    gone, taken = free(storage, [each for each in survey(storage) if each.free])
    assert len(gone) == 14 and not taken
    assert all(path.exists() for path in kept)
    left = survey(storage)
    assert names(storage, left) == {str(path.relative_to(storage.root)) for path in kept}
    assert (storage.trials / "done" / "model" / "model.safetensors").exists()
    assert (storage.prepared / "salt").exists()
    assert not list(storage.root.rglob(f".*{HEX}"))


def test_what_lies_in_a_part_is_listed_together(storage):
    parts = [each.path.relative_to(storage.root).parts[0] for each in survey(storage)]
    assert parts[0] == "prepared" and parts.count("prepared") > 10
    changes = sum(a != b for a, b in zip(parts, parts[1:], strict=False))
    assert changes + 1 == len(set(parts))


def test_what_a_link_leads_to_stays_and_so_does_the_link(storage, tmp_path):
    (storage.trials / "orphan").rename(tmp_path / "elsewhere")
    (storage.trials / "orphan").symlink_to(tmp_path / "elsewhere")
    age(storage)
    (found,) = [each for each in survey(storage) if each.path.name == "orphan"]
    assert found.free == "" and found.said.endswith("it is a link, and lies elsewhere")


def test_generated_data_stay_while_a_cohort_of_them_is_being_prepared(storage):
    """Which one that is stands in its manifest, which is written last."""
    finish(storage)
    (storage.prepared / "c2" / "manifest.json").unlink()
    phantom = storage.prepared / ("phantom-" + "c2" * 8)
    age(storage)
    assert {e.path: e.free for e in survey(storage)}[phantom] == "packs"
    acquire_lease(storage.prepared / "c2", "somebody")
    assert {e.path: e.free for e in survey(storage)}[phantom] == ""


def test_what_a_process_at_work_removes_meanwhile_is_no_error(storage, monkeypatch):
    """Each file is gone by the time that it is looked at."""
    finish(storage)

    def gone(path):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "lstat", gone)
    assert {each.size for each in survey(storage)} == {0}


def test_a_study_that_waits_for_trials_keeps_its_checkpoints_and_all_packs_of_its_cohort(storage):
    offered = {str(each.path.relative_to(storage.root)): each for each in survey(storage)}
    assert "goes on from" in offered["running/waiting"].said
    assert offered["running/waiting"].free == "unfinished"
    assert offered["prepared/c1/images-a2"].free == ""
    assert offered["prepared/c1/images-a2"].said == "images of held"


def test_nothing_under_a_living_lease_goes(storage):
    finish(storage)
    for folder in (storage.running / "nobody", storage.prepared / "c2"):
        acquire_lease(folder, "somebody")
        assert is_held(folder)
    write(storage.running / "nobody" / f".{HEX}" / "last.pt")
    age(storage)
    acquire_lease(storage.running / "nobody", "somebody")
    found = {str(each.path.relative_to(storage.root)): each for each in survey(storage)}
    for name in (
        "running/nobody",
        f"running/nobody/.{HEX}",
        "prepared/c2",
        "prepared/c1/images-a2",
    ):
        assert found[name].free == "", name
    assert "a trial under way" in found["running/nobody"].said
    assert found["prepared/c1/images-a2"].said.endswith("a sweep may be running")


def test_what_somebody_takes_after_it_was_listed_stays(storage):
    found = [each for each in survey(storage) if each.path.name == "waiting"]
    acquire_lease(storage.running / "waiting", "somebody")
    gone, taken = free(storage, found)
    assert (gone, taken) == ([], found)
    assert (storage.running / "waiting" / HEX / "last.pt").exists()


def test_the_dead_do_not_hold_what_they_worked_on(storage):
    lease = {"driver": "d", "attempt": HEX, "host": "elsewhere", "pid": 1, "process_started": "1"}
    write(storage.running / "nobody" / "lease.json", json.dumps(lease))
    age(storage)
    (found,) = [each for each in survey(storage) if each.path.name == "nobody"]
    gone, _ = free(storage, [found])
    assert gone == [found] and not found.path.exists()


def test_what_changed_within_the_hour_stays(storage):
    finish(storage)
    write(storage.trials / "orphan" / "scores-1.json")
    write(storage.root / f".mlflow.db.{HEX}")
    found = {each.path.name: each for each in survey(storage)}
    for name in ("orphan", f".mlflow.db.{HEX}"):
        assert found[name].free == "" and found[name].said.endswith("within the last hour")
    os.utime(storage.studies / "held" / "study.json")
    found = {each.path.name: each for each in survey(storage)}
    assert found["images-a2"].said.endswith("a sweep may be running")


def test_a_study_whose_record_is_damaged_stops_the_cleaning(storage):
    (storage.studies / "held" / "study.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        survey(storage)


@pytest.mark.parametrize("path", ["prepared/c1/manifest.json", "running/waiting/lease.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", "\0"])
def test_a_damaged_manifest_or_lease_stops_the_cleaning_with_one_sentence(storage, path, content):
    write(storage.root / path, content)
    before = sorted(storage.root.rglob("*"))
    with pytest.raises(InputError, match=f"{path} is damaged.*: remove "):
        survey(storage)
    assert sorted(storage.root.rglob("*")) == before


def test_packs_that_were_freed_are_made_again(tmp_path):
    place = PreparedPhantom(Storage.open(str(tmp_path / "runs")))
    config = tiny_config()
    keys = place.prepare(config)
    before = place.arm(config)
    pixels, ids = before.images.copy(), before.record_id
    age(place.storage)
    found = survey(place.storage)
    assert names(place.storage, [e for e in found if e.free == "packs"]) >= {
        f"prepared/{keys.cohort}"
    }
    free(place.storage, [each for each in found if each.free])
    assert not (place.storage.prepared / keys.cohort).exists()
    again = place.arm(config)
    assert (again.images == pixels).all() and (again.record_id == ids).all()


def clean(*options):
    return subprocess.run(
        [sys.executable, "launch/clean.py", *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_script_removes_nothing_unless_told_and_only_what_was_asked_for(storage):
    finish(storage)
    before = sorted(storage.root.rglob("*"))
    said = clean("--storage", storage.root, "--also", "trials")
    assert said.returncode == 0, said.stderr
    assert sorted(storage.root.rglob("*")) == before
    assert "trials/orphan: a trial of no study" in said.stdout
    assert "--also packs would free" in said.stdout and "(3)" in said.stdout
    assert "nothing was removed" in said.stdout
    done = clean("--storage", storage.root, "--yes")
    assert done.returncode == 0 and "freed" in done.stdout and "(6 of 6)" in done.stdout
    assert (storage.trials / "orphan").exists() and not (storage.running / "done").exists()


def test_the_script_names_a_damaged_file_without_a_traceback(storage):
    damaged = storage.prepared / "c1" / "manifest.json"
    damaged.write_text("{")
    done = clean("--storage", storage.root, "--yes")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {damaged} is damaged") and done.stderr.count("\n") == 1
    assert (storage.running / "done").exists()


@pytest.mark.parametrize(
    "location, sentence",
    [("s3://bucket/runs", "only folders are cleaned"), ("absent", "no storage of a sweep")],
)
def test_a_place_that_cannot_be_cleaned_is_refused(location, sentence):
    done = clean("--storage", location)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --storage") and sentence in done.stderr
