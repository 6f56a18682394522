import os
import threading
import time
from pathlib import Path

import pytest
from machines import Machines
from object_folder import ObjectFolder
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.data.prepared import is_prepared
from cxr_ray.errors import InputError
from cxr_ray.lease import Heartbeat
from cxr_ray.object_lease import ObjectLeases
from cxr_ray.object_store import SCRATCH_VARIABLE
from cxr_ray.report.trial_folder import read_history, read_predictions
from cxr_ray.storage import RESULT_FILE, Storage
from cxr_ray.sweep.places import bring_study, find_place
from cxr_ray.sweep.study import Study
from cxr_ray.training.checkpoint_upload import fetch_checkpoints
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Open the same store on a machine of some name."""
    return Machines(tmp_path, monkeypatch)


@pytest.fixture
def calls(monkeypatch):
    """Note what goes up and down, by name of the object."""
    noted = []
    for kind in ("put_file", "get_file"):
        original = getattr(ObjectFolder, kind)

        def noting(self, one, other, *rest, kind=kind, original=original, **options):
            noted.append((kind, Path(one).name))
            return original(self, one, other, *rest, **options)

        monkeypatch.setattr(ObjectFolder, kind, noting)
    return noted


def trial(storage, name="abc", content="0.5", attempt="first"):
    """Leave a finished trial on a machine, as far as a folder tells."""
    folder = storage.trials / name
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).write_text(f'{{"attempt": "{attempt}"}}')
    (folder / "history.csv").write_text(content)
    (folder / "model" / "model.safetensors").write_text("weights")
    return folder


def test_a_machine_works_in_a_mirror_that_is_its_owners_only(machine, tmp_path):
    storage = machine("one")
    assert storage.location == f"objects://{tmp_path}/store/runs"
    assert storage.root.is_relative_to(tmp_path / "one")
    for folder in (storage.root, storage.prepared, storage.trials, storage.running):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_store_that_was_emptied_is_another_one(machine, tmp_path):
    first = machine("one").root
    assert machine("one").root == first
    (tmp_path / "store" / "runs" / "storage.json").unlink()
    assert machine("one").root != first


def test_a_mirror_that_cannot_be_made_is_named_with_the_variable(machine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"mirror of .* name another folder in {SCRATCH_VARIABLE}"):
        machine("file")


def test_a_trial_is_finished_elsewhere_once_its_result_is_up_which_goes_last(machine, calls):
    one = machine("one")
    folder = trial(one)
    assert not machine("two").is_finished("abc")
    one.home.publish(folder, RESULT_FILE)
    assert calls[-1] == ("put_file", RESULT_FILE)
    two = machine("two")
    assert two.is_finished("abc")
    assert (two.trials / "abc" / "history.csv").read_text() == "0.5"
    assert not (two.trials / "abc" / "model").exists()  # weights stay until they are asked for
    two.home.fetch(two.trials / "abc", RESULT_FILE)
    assert (two.trials / "abc" / "model" / "model.safetensors").read_text() == "weights"


def test_a_trial_without_result_in_the_store_is_not_finished(machine, tmp_path):
    one = machine("one")
    one.home.publish(trial(one), RESULT_FILE)
    (tmp_path / "store" / "runs" / "trials" / "abc" / RESULT_FILE).unlink()
    assert not machine("two").is_finished("abc")
    assert not machine("one").is_finished("abc")  # nor where it was trained


def test_a_fetch_that_breaks_off_leaves_nothing(machine, monkeypatch):
    one = machine("one")
    one.home.publish(trial(one), RESULT_FILE)
    two = machine("two")

    def broken(self, one, other, *_, **__):
        if Path(one).name == "history.csv":
            raise ConnectionError("gone")
        Path(other).write_text("{}")

    monkeypatch.setattr(ObjectFolder, "get_file", broken)
    with pytest.raises(ConnectionError):
        two.is_finished("abc")
    assert list(two.trials.iterdir()) == []


def test_nothing_travels_twice(machine, calls):
    one = machine("one")
    folder = trial(one)
    one.home.publish(folder, RESULT_FILE)
    two = machine("two")
    two.is_finished("abc")
    calls.clear()
    one.home.publish(folder, RESULT_FILE)
    assert machine("two").is_finished("abc")
    assert calls == []
    (folder / "scores-1.json").write_text("{}")
    machine("one").home.publish(folder, RESULT_FILE)
    assert calls == [("put_file", "scores-1.json")]


def test_what_was_trained_anew_elsewhere_replaces_what_a_machine_had(machine):
    for attempt in ("first", "second"):
        one = machine("one")
        one.home.publish(trial(one, content=attempt, attempt=attempt), RESULT_FILE)
        two = machine("two")
        assert two.is_finished("abc")
        assert (two.trials / "abc" / "history.csv").read_text() == attempt
        one.home.discard(one.trials / "abc")
    assert not machine("two").is_finished("abc")


def test_of_all_processes_of_a_machine_one_fetches_a_pack(machine, calls):
    one = machine("one")
    pack = one.prepared / "c0ffee" / "images-1"
    pack.mkdir(parents=True)
    (pack / "images.npy").write_bytes(b"0" * 100_000)
    one.home.publish(pack)
    calls.clear()
    machine("two")
    stores = [Storage.open(one.location) for _ in range(6)]

    def fetch(storage):
        storage.home.fetch(storage.prepared / "c0ffee" / "images-1")

    threads = [threading.Thread(target=fetch, args=[each]) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls.count(("get_file", "images.npy")) == 1


def test_all_machines_have_the_same_salt(machine):
    salts = {machine(name).salt() for name in ("one", "two", "one")}
    assert len(salts) == 1
    assert len(salts.pop()) == 32


def test_a_living_holder_on_another_machine_keeps_its_lease(machine):
    one, two = machine("one"), machine("two")
    lease = one.leases.acquire(one.running / "abc", "one")
    assert two.leases.acquire(two.running / "abc", "two") is None
    assert two.leases.holds(two.running / "abc", lease.attempt)
    one.leases.release(one.running / "abc", lease)
    assert not two.leases.holds(two.running / "abc", lease.attempt)
    assert two.leases.acquire(two.running / "abc", "two") is not None
    assert (two.running / "abc").is_dir()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"driver": 1}', b"\xff"])
def test_a_damaged_lease_is_named_with_what_to_do(machine, content):
    storage = machine("one")
    leases, folder = storage.leases, storage.running / "abc"
    lease = leases.acquire(folder, "me")
    (name,) = [each for each in storage.home.names(folder) if each.startswith("lease-")]
    storage.store._system.pipe_file(storage.store.address(folder / name), content)
    for ask in (
        lambda: leases.acquire(folder, "other"),
        lambda: leases.holds(folder, lease.attempt),
        lambda: leases.refresh(folder),
    ):
        with pytest.raises(InputError, match=f"abc/{name} is damaged.*remove it if nobody does"):
            ask()


def test_a_driver_that_takes_its_own_lease_again_ends_its_earlier_attempt(machine):
    storage = machine("one")
    leases, folder = storage.leases, storage.running / "abc"
    first, second = leases.acquire(folder, "me"), leases.acquire(folder, "me")
    assert not leases.holds(folder, first.attempt)
    assert leases.holds(folder, second.attempt)
    leases.release(folder, first)
    assert leases.holds(folder, second.attempt)


def test_exactly_one_of_those_who_race_for_a_lease_wins(machine):
    storage = machine("one")
    for number in range(10):
        folder, barrier, won = storage.running / str(number), threading.Barrier(8), []

        def take(name, folder=folder, barrier=barrier, won=won):
            barrier.wait()
            won.append(storage.leases.acquire(folder, name))

        threads = [threading.Thread(target=take, args=[str(each)]) for each in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (lease,) = [each for each in won if each is not None]
        assert storage.leases.holds(folder, lease.attempt)


def test_another_machines_lease_is_stale_after_a_minute_without_a_heartbeat(machine, monkeypatch):
    storage = machine("one")
    folder = storage.running / "abc"
    monkeypatch.setattr("cxr_ray.lease.socket.gethostname", lambda: "another-host")
    storage.leases.acquire(folder, "other")
    monkeypatch.undo()
    now = time.time()
    for later, taken in ((50, False), (70, True)):
        monkeypatch.setattr("cxr_ray.object_lease.time.time", lambda later=later: now + later)
        assert (storage.leases.acquire(folder, "me") is not None) == taken


def test_a_heartbeat_keeps_an_object_fresh(machine, monkeypatch):
    storage = machine("one")
    storage.leases.acquire(storage.running / "abc", "me")
    (lease,) = Path(storage.home.address(storage.running / "abc")).iterdir()
    before = lease.stat().st_mtime_ns
    monkeypatch.setattr(ObjectLeases, "beat_seconds", 0.02)
    with Heartbeat(storage.leases) as heartbeat:
        heartbeat.add(storage.running / "abc")
        deadline = time.monotonic() + 5
        while lease.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.01)
    assert lease.stat().st_mtime_ns > before


def test_a_machine_takes_up_what_another_did_further_and_keeps_its_own_when_it_is_ahead(machine):
    attempt = "0" * 32

    def write(storage, epoch, when):
        folder = storage.running / "abc" / attempt
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("compute.json", "best.pt", "last.pt"):
            (folder / name).write_text(epoch)
            os.utime(folder / name, (when, when))
        return folder

    now = time.time()
    one = machine("one")
    folder = write(one, "first", now - 60)
    other = machine("two")
    other.home.publish(write(other, "second", now), "last.pt")
    fetch_checkpoints(one, one.running / "abc")
    assert {path.read_text() for path in folder.glob("[!.]*")} == {"second"}
    write(one, "third", now + 60)
    fetch_checkpoints(one, one.running / "abc")
    assert {path.read_text() for path in folder.glob("[!.]*")} == {"third"}


class Lost(Exception):
    pass


def test_a_trial_goes_on_on_another_machine_with_the_same_numbers(machine, tmp_path):
    config = tiny_config(fusion__modalities="text", train__max_epochs=4)
    heard = []

    def lose_after_second_epoch(row):
        heard.append(row)
        if row["epoch"] == 1:
            raise Lost

    one = PreparedPhantom(machine("one"))
    with pytest.raises(Lost):
        run_job(one.job(config), World(), lose_after_second_epoch)
    two = PreparedPhantom(machine("two"))
    job = two.job(config)
    assert is_prepared(two.storage, two.keys(config))
    seconds = []
    run_job(job, World(), seconds.append)
    assert [row["epoch"] for row in seconds] == [0, 1, 2, 3]
    assert seconds[1]["seconds"] == heard[1]["seconds"]  # told, not trained again
    three = machine("three")
    assert three.is_finished(job.experiment_id)
    assert three.home.names(three.running / job.experiment_id) == []
    alone = PreparedPhantom(Storage.open(str(tmp_path / "alone")))
    whole = alone.job(config)
    run_job(whole, World(), lambda row: None)
    folders = three.trials / job.experiment_id, alone.storage.trials / job.experiment_id
    found, expected = map(read_predictions, folders)
    assert found.logit.tobytes() == expected.logit.tobytes()
    losses = [[row["val_loss"] for row in read_history(each)] for each in folders]
    assert losses[0] == losses[1]


def test_a_study_is_found_by_its_uri_and_brought_with_its_trials(machine):
    one = machine("one")
    one.home.publish(trial(one), RESULT_FILE)
    folder = one.studies / "mine"
    (folder / "ended").mkdir(parents=True)
    (folder / "ended" / "lost.json").write_text("{}")
    (folder / "study.json").write_text(
        '{"name": "mine", "uuid": "1", "members": [{"experiment_id": "abc"}], "cohorts": []}'
    )
    one.home.publish(folder, "study.json")
    machine("two")
    place = find_place(f"{one.location}/studies/mine/")
    bring_study(place.storage, Study.read(place.folder))
    assert (place.folder / "ended" / "lost.json").exists()
    assert (place.storage.trials / "abc" / "history.csv").exists()
    (place.folder / "report.html").write_text("page")
    assert place.publish() == f"{one.location}/studies/mine"
    again = machine("one")
    again.home.fetch(folder, "study.json")
    assert (folder / "report.html").read_text() == "page"


@pytest.mark.parametrize(
    ("inside", "sentence"),
    [
        ("studies/absent", "studies/absent holds no study.json: was it published there"),
        ("mine", "should be URI/studies/NAME or URI/trials/ID"),
        ("studies", "should be URI/studies/NAME or URI/trials/ID"),
    ],
)
def test_a_uri_that_is_no_studys_is_refused(machine, inside, sentence):
    with pytest.raises(InputError, match=sentence):
        find_place(f"{machine('one').location}/{inside}")
