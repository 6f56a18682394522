"""A storage that takes nothing more: full, over its quota, or of somebody else."""

import contextlib
import errno
import os
import resource

import pytest
from answers import answer, table
from ordinary_user import ordinary_user

PEOPLE = "who,report,ill\n" + "".join(f"p{n},fever and cough {n},{n % 2}\n" for n in range(60))


def laid_out(folder):
    """Write a table and its YAML, and give the options that prepare it."""
    folder.mkdir(exist_ok=True)
    return table(PEOPLE, "--cohort-only")(folder)


def prepare(folder, options, monkeypatch):
    return answer("prepare.py", options, folder, monkeypatch)


@contextlib.contextmanager
def small_files(most):
    """Let this process write no file larger than some bytes: the kernel refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(found, *words):
    code, said = found
    assert code == 2, said
    assert "Traceback" not in said
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full (No space left on device)"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "the file system is read-only"),
    ],
)
def test_a_storage_that_is_full_is_named_and_the_command_continues_later(
    number, words, tmp_path, monkeypatch
):
    options = laid_out(tmp_path)
    with monkeypatch.context() as full:

        def fsync(descriptor):
            raise OSError(number, os.strerror(number))

        full.setattr(os, "fsync", fsync)
        found = prepare(tmp_path, options, monkeypatch)
    refused(found, "runs/prepared/", words, "the same command continues")
    assert prepare(tmp_path, options, monkeypatch)[0] == 0


def test_a_file_that_may_not_become_so_large_is_named(tmp_path, monkeypatch):
    options = laid_out(tmp_path)
    assert prepare(tmp_path, options, monkeypatch)[0] == 0  # imports what it needs
    laid_out(tmp_path / "other")
    with small_files(1000):
        found = prepare(tmp_path / "other", options, monkeypatch)
    refused(found, "a file may not become so large here")
    assert prepare(tmp_path / "other", options, monkeypatch)[0] == 0


@pytest.mark.parametrize("locked", [".", "runs", "runs/prepared"])
def test_a_storage_of_somebody_else_is_named(locked, open_place, monkeypatch):
    options = laid_out(open_place)
    assert prepare(open_place, options, monkeypatch)[0] == 0  # imports what it needs
    other = open_place / "other"
    laid_out(other)
    if locked != ".":
        for name in ("trials", "prepared", "running", "studies"):
            (other / "runs" / name).mkdir(parents=True)
    for path in (other, *other.rglob("*")):
        path.chmod(0o777)
    (other / locked).chmod(0o555)
    try:
        with ordinary_user():
            found = prepare(other, options, monkeypatch)
    finally:
        (other / locked).chmod(0o777)
    refused(found, "ermission")


@pytest.mark.parametrize("name", ["prepared", "trials", "running", "studies"])
def test_a_file_in_the_place_of_a_storages_folder_is_named(name, tmp_path, monkeypatch):
    options = laid_out(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / name).touch()
    refused(
        prepare(tmp_path, options, monkeypatch), f"runs/{name} is a file where a folder should be"
    )
