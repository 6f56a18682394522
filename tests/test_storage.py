import stat
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.errors import InputError
from cxr_ray.storage import Storage, move_whole, write_whole


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_opening_makes_the_folders_and_what_holds_patients_is_the_owners_only(tmp_path):
    storage = Storage.open(str(tmp_path / "a" / "runs"))
    assert {each.name for each in storage.root.iterdir()} == {
        "prepared",
        "trials",
        "running",
        "studies",
    }
    for folder in (storage.prepared, storage.trials, storage.running):
        assert mode(folder) == 0o700


def test_opening_again_keeps_what_is_there(tmp_path):
    storage = Storage.open(str(tmp_path))
    (storage.trials / "abc").mkdir()
    assert (Storage.open(str(tmp_path)).trials / "abc").is_dir()


def test_opening_without_making_writes_nothing(tmp_path):
    storage = Storage.open(str(tmp_path / "runs"), create=False)
    assert storage.root == tmp_path / "runs"
    assert list(tmp_path.iterdir()) == []


def test_a_relative_place_does_not_move_with_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = Storage.open("runs")
    monkeypatch.chdir("/")
    assert storage.trials == tmp_path / "runs" / "trials"


@pytest.mark.parametrize("client", ["s3", "gs"])
def test_a_store_without_its_package_is_refused_with_what_to_install(client, monkeypatch):
    for module in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install 'cxr-ray\[cloud\]'"):
        Storage.open(f"{client}://bucket/runs")


def test_a_store_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match="--storage nowhere://bucket: fsspec cannot open it"):
        Storage.open("nowhere://bucket")


def test_a_file_uri_is_a_folder(tmp_path):
    assert Storage.open(f"file://{tmp_path}/runs").root == tmp_path / "runs"


@pytest.mark.parametrize("place", ["file", "file/inside", "folder"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "trials").write_text("")
    with pytest.raises(InputError, match=r"is a file where a folder should be"):
        Storage.open(str(tmp_path / place))


def test_a_dry_run_is_told_of_a_file_in_the_folders_place_too(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is a file where a folder should be"):
        Storage.open(str(tmp_path / "file"), create=False)


def test_the_salt_is_made_once_and_is_the_owners_only(tmp_path):
    storage = Storage.open(str(tmp_path))
    salt = storage.salt()
    assert len(salt) == 32
    assert Storage.open(str(tmp_path)).salt() == salt
    assert mode(storage.prepared / "salt") == 0o600
    assert [each.name for each in storage.prepared.iterdir()] == ["salt"]


def test_two_storages_have_different_salts(tmp_path):
    assert Storage.open(str(tmp_path / "a")).salt() != Storage.open(str(tmp_path / "b")).salt()


def test_all_who_ask_for_a_new_salt_at_once_get_the_same(tmp_path):
    storage = Storage.open(str(tmp_path))
    barrier, salts = threading.Barrier(8), []

    def ask():
        barrier.wait()
        salts.append(storage.salt())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(salts) == 8
    assert len(set(salts)) == 1


@given(content=st.binary(max_size=50) | st.text(max_size=50))
def test_a_file_is_written_as_it_was_given(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("written") / "file"
    write_whole(path, "before")
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)


def test_a_write_that_fails_keeps_the_old_content_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, "old")

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr("cxr_ray.storage.os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_finished_folder_appears_whole(tmp_path):
    aside = tmp_path / "aside"
    aside.mkdir()
    (aside / "result.json").write_text("mine")
    assert move_whole(aside, tmp_path / "trials" / "abc")
    assert (tmp_path / "trials" / "abc" / "result.json").read_text() == "mine"
    assert not aside.exists()


def test_a_folder_has_its_name_only_when_all_its_files_are_on_disk(tmp_path, monkeypatch):
    (tmp_path / "aside" / "model").mkdir(parents=True)
    (tmp_path / "aside" / "model" / "weights").write_text("w")
    (tmp_path / "aside" / "result.json").write_text("r")
    there = []

    def note(descriptor):
        there.append((Path(f"/proc/self/fd/{descriptor}").readlink(), (tmp_path / "abc").exists()))

    monkeypatch.setattr("cxr_ray.storage.os.fsync", note)
    assert move_whole(tmp_path / "aside", tmp_path / "abc")
    *before, last = there
    names = ("aside", "aside/model", "aside/model/weights", "aside/result.json")
    assert sorted(before) == sorted((tmp_path / name, False) for name in names)
    assert last == (tmp_path, True)


def test_who_finishes_second_leaves_the_firsts_folder_alone(tmp_path):
    for name in ("aside", "abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(name)
    assert not move_whole(tmp_path / "aside", tmp_path / "abc")
    assert (tmp_path / "abc" / "result.json").read_text() == "abc"
    assert not (tmp_path / "aside").exists()


def test_a_folder_that_cannot_be_moved_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        move_whole(tmp_path / "absent", tmp_path / "abc")
