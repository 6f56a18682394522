import hashlib
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from prepared_phantom import PreparedPhantom, quiet, tiny_config

from cxr_ray.data import image_pack
from cxr_ray.data.arm import open_arm
from cxr_ray.data.cohort import select_cohort
from cxr_ray.data.fan_out import run_here
from cxr_ray.data.image_pack import decode_image
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import (
    COHORT_FILE,
    FLOW_FILE,
    MANIFEST,
    is_prepared,
    read_cohort,
    read_manifest,
)
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage


class Counted:
    """A source that counts what is read, and may lose files or break off."""

    def __init__(self, source, lost=(), break_after=None):
        self.source, self.lost, self.break_after = source, set(lost), break_after
        self.images, self.reports, self.broken = [], [], set()

    def __getattr__(self, name):
        return getattr(self.source, name)

    def present(self, modality, references):
        there = self.source.present(modality, references)
        return there & np.array([reference not in self.lost for reference in references])

    def read_image(self, reference):
        if len(self.images) == self.break_after:
            raise KeyboardInterrupt
        self.images.append(reference)
        return b"" if reference in self.broken else self.source.read_image(reference)

    def reports_of(self, references):
        return self

    def read_report(self, reference):
        self.reports.append(reference)
        return self.source.read_report(reference)


@pytest.fixture
def fresh(phantom, tmp_path):
    """A storage of its own; the phantom's files are the shared ones."""
    return PreparedPhantom(Storage.open(str(tmp_path / "storage"))), Counted(
        phantom.source(tiny_config())
    )


def test_the_planted_corrupt_image_and_missing_report_are_dropped_under_rules_of_their_own(phantom):
    config = tiny_config()
    folder = phantom.storage.prepared / phantom.keys(config).cohort
    flow = json.loads((folder / FLOW_FILE).read_text())
    dropped = {step["rule"]: step["dropped"] for step in flow}
    assert dropped["report missing"] == 1
    assert dropped["image unreadable (OSError)"] == 1
    for before, after in zip(flow, flow[1:], strict=False):
        assert after["after"] == after["before"] - after["dropped"]
        if before["unit"] == after["unit"]:
            assert before["after"] == after["before"]
    assert flow[-1]["positive"] + flow[-1]["negative"] == flow[-1]["after"]
    assert len(read_cohort(folder)) == flow[-1]["after"]


def test_the_manifest_counts_the_cohort_and_names_bad_records_by_salted_hash(phantom):
    config = tiny_config()
    keys = phantom.keys(config)
    manifest = read_manifest(phantom.storage, keys.cohort)
    cohort = read_cohort(phantom.storage.prepared / keys.cohort)
    assert manifest["records"] == len(cohort) == sum(p["n"] for p in manifest["parts"].values())
    assert manifest["positive"] == cohort["label"].sum()
    assert [fault["reason"] for fault in manifest["faults"]] == ["image unreadable (OSError)"]
    assert re.fullmatch("[0-9a-f]{16}", manifest["faults"][0]["record_id"])
    assert cohort["record_id"].is_unique


def test_each_row_of_the_pack_is_its_records_image(phantom):
    config = tiny_config()
    arm = phantom.arm(config)
    cohort = read_cohort(phantom.storage.prepared / phantom.keys(config).cohort)
    source = phantom.source(config)
    for at in range(0, len(cohort), 17):
        wanted = decode_image(source.read_image(cohort["image"][at]), config.image.size)
        assert np.array_equal(arm.images[arm.row[at]], wanted)


def test_no_file_is_named_after_a_patient(phantom):
    folder = phantom.storage.prepared / phantom.keys(tiny_config()).cohort
    cohort = read_cohort(folder)
    names = "\n".join(str(path.relative_to(folder.parent)) for path in folder.rglob("*"))
    for column in ("patient", "record"):
        assert not any(value in names for value in cohort[column])


def test_more_bad_records_than_allowed_stop_the_run_with_one_sentence(fresh):
    place, source = fresh
    config = tiny_config(**{"data.max_bad_share": 0.001})
    with pytest.raises(InputError) as stopped:
        place.prepare(config, source=source)
    said = str(stopped.value)
    assert re.match(r"data\.max_bad_share: 1 of \d+ records cannot be read, more than", said)
    assert "\n" not in said
    assert not is_prepared(place.storage, place.keys(config))
    patients = {reference.split("/")[2][1:] for reference in source.images}
    assert not any(patient in said for patient in patients)
    # raising the share is enough, and nothing is decoded again
    decoded = len(source.images)
    place.prepare(tiny_config(), source=source)
    assert len(source.images) == decoded


def test_a_part_whose_only_records_of_a_class_cannot_be_read_is_refused(fresh):
    place, source = fresh
    config = tiny_config(**{"data.max_bad_share": 0.5})
    frame = select_cohort(source, config).frame
    positives = frame.loc[(frame["part"] == "val") & (frame["label"] == 1), "image"]
    source.broken = set(positives)
    with pytest.raises(InputError, match="part 'val' has no positive record"):
        place.prepare(config, source=source)


@pytest.mark.parametrize("break_after", [0, 20, 37])
def test_a_killed_preparation_repeats_at_most_one_chunk(fresh, monkeypatch, break_after):
    monkeypatch.setattr(image_pack, "CHUNK", 16)
    place, source = fresh
    source.break_after = break_after
    config = tiny_config()
    with pytest.raises(KeyboardInterrupt):
        place.prepare(config, source=source)
    assert not is_prepared(place.storage, place.keys(config))
    source.break_after = None
    place.prepare(config, source=source)
    assert is_prepared(place.storage, place.keys(config))
    repeated = len(source.images) - len(set(source.images))
    assert repeated == break_after % 16
    assert len(source.reports) == len(set(source.reports))


DIES = """
import os, signal, sys
from prepared_phantom import PreparedPhantom, tiny_config
from cxr_ray.data import image_pack
from cxr_ray.storage import Storage

class Dying:
    def __init__(self, source):
        self.source, self.read = source, 0

    def __getattr__(self, name):
        return getattr(self.source, name)

    def read_image(self, reference):
        if self.read == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        self.read += 1
        return self.source.read_image(reference)

image_pack.CHUNK = 16
ours, theirs = (PreparedPhantom(Storage.open(root)) for root in sys.argv[1:])
ours.prepare(tiny_config(), source=Dying(theirs.source(tiny_config())))
"""


def test_what_a_process_had_prepared_when_it_was_killed_is_kept(fresh, phantom, monkeypatch):
    place, source = fresh
    roots = [str(place.storage.root), str(phantom.storage.root)]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run([sys.executable, "-c", DIES, *roots], env=os.environ | path)
    assert died.returncode == -signal.SIGKILL
    monkeypatch.setattr(image_pack, "CHUNK", 16)
    config = tiny_config()
    ours = place.prepare(config, source=source)
    # the first chunk of 16 was whole, and all the reports were
    assert len(source.images) == len(select_cohort(source, config).frame) - 16
    assert source.reports == []
    name = f"images-{ours.image}/images.npy"
    first, second = (p.storage.prepared / ours.cohort / name for p in (place, phantom))
    assert first.read_bytes() == second.read_bytes()


def test_a_fan_out_that_breaks_between_chunks_loses_no_finished_chunk(fresh, monkeypatch):
    monkeypatch.setattr(image_pack, "CHUNK", 16)
    place, source = fresh

    def breaking(function, arguments):
        for done, each in enumerate(arguments):
            if function is image_pack.decode_chunk and done == 3:
                raise KeyboardInterrupt
            yield function(*each)

    config = tiny_config()
    with pytest.raises(KeyboardInterrupt):
        place.prepare(config, source=source, fan_out=breaking)
    assert len(source.images) == 48
    place.prepare(config, source=source)
    assert len(source.images) == len(set(source.images))


def test_an_interrupted_preparation_gives_the_same_bytes(fresh, phantom, monkeypatch):
    place, source = fresh
    monkeypatch.setattr(image_pack, "CHUNK", 16)
    source.break_after = 40
    config = tiny_config()
    with pytest.raises(KeyboardInterrupt):
        place.prepare(config, source=source)
    source.break_after = None
    ours, theirs = place.prepare(config, source=source), phantom.keys(config)
    assert ours == theirs
    images, tokens = f"images-{ours.image}/images.npy", f"text-{ours.text}/tokens.npy"
    tokenizer = f"tokenizer-{ours.tokenizer}/tokenizer.json"
    for name in (images, tokens, tokenizer, FLOW_FILE):
        first = place.storage.prepared / ours.cohort / name
        second = phantom.storage.prepared / ours.cohort / name
        assert first.read_bytes() == second.read_bytes(), name


def test_a_new_text_view_decodes_no_image_and_reads_no_report_again(fresh):
    place, source = fresh
    place.prepare(tiny_config(), source=source)
    read = len(source.images), len(source.reports)
    view = tiny_config(text__sections="indication", text__mask="label_terms")
    keys = place.prepare(view, source=source)
    assert (len(source.images), len(source.reports)) == read
    folder = place.storage.prepared / keys.cohort
    assert len(list(folder.glob("text-*"))) == 2
    assert len(list(folder.glob("tokenizer-*"))) == len(list(folder.glob("images-*"))) == 1


def test_a_new_size_reads_no_report_and_keeps_every_row(fresh):
    place, source = fresh
    small = tiny_config()
    place.prepare(small, source=source)
    read = len(source.reports)
    large = tiny_config(image__size=48)
    arm = open_arm(place.storage, large, place.prepare(large, source=source))
    assert len(source.reports) == read
    assert arm.images.shape[1:] == (48, 48)
    shrunk = arm.images[arm.row].mean((1, 2))
    again = place.arm(small)
    assert np.abs(shrunk - again.images[again.row].mean((1, 2))).max() < 3


def test_preparing_again_does_nothing(fresh):
    place, source = fresh
    config = tiny_config()
    keys = place.prepare(config, source=source)
    files = (place.storage.prepared / keys.cohort).rglob("[!.]*.*")
    before = {path: path.stat().st_mtime_ns for path in files}
    read = len(source.images), len(source.reports)
    prepare(
        place.storage,
        source,
        [(config, keys)],
        fan_out=run_here,
        progress=quiet,
        driver="again",
    )
    assert (len(source.images), len(source.reports)) == read
    assert len(before) > 10
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_files_that_come_later_do_not_shift_rows_of_an_interrupted_preparation(fresh, monkeypatch):
    monkeypatch.setattr(image_pack, "CHUNK", 16)
    place, source = fresh
    config = tiny_config()
    first = read_first_image(source, config)
    source.lost, source.break_after = {first}, 40
    with pytest.raises(KeyboardInterrupt):
        place.prepare(config, source=source)
    source.lost, source.break_after = set(), None
    keys = place.prepare(config, source=source)
    arm = open_arm(place.storage, config, keys)
    cohort = read_cohort(place.storage.prepared / keys.cohort)
    assert first in set(cohort["image"])
    for at in range(0, len(cohort), 9):
        wanted = decode_image(source.read_image(cohort["image"][at]), config.image.size)
        assert np.array_equal(arm.images[arm.row[at]], wanted)


def test_files_that_come_after_a_cohort_was_prepared_are_refused_for_a_new_size(fresh):
    place, source = fresh
    config = tiny_config()
    source.lost = {read_first_image(source, config)}
    place.prepare(config, source=source)
    source.lost = set()
    with pytest.raises(InputError, match="prepared from other files than phantom holds now"):
        place.prepare(tiny_config(image__size=48), source=source)


def test_the_cohort_alone_is_counted_without_reading_any_image_or_report(fresh):
    place, source = fresh
    config = tiny_config(**{"data.require": []})
    keys = place.keys(config)
    prepare(
        place.storage,
        source,
        [(config, keys)],
        fan_out=run_here,
        progress=quiet,
        driver="test",
        cohort_only=True,
    )
    folder = place.storage.prepared / keys.cohort
    assert source.images == source.reports == []
    assert {COHORT_FILE, FLOW_FILE, MANIFEST} <= {path.name for path in folder.iterdir()}


def test_a_cohort_prepared_by_a_newer_version_is_refused(fresh):
    place, source = fresh
    keys = place.prepare(tiny_config(), source=source)
    path = place.storage.prepared / keys.cohort / MANIFEST
    manifest = json.loads(path.read_text()) | {"prepare_version": 10**6}
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="written by a newer version"):
        read_manifest(place.storage, keys.cohort)


def read_first_image(source, config):
    """The image of the first record that any rule keeps."""
    from cxr_ray.data.cohort import select_cohort

    return select_cohort(source, config).frame["image"].iloc[0]


def test_the_manifest_has_the_checksum_of_every_array_that_models_read(phantom):
    config = tiny_config()
    phantom.arm(config)
    folder = phantom.storage.prepared / phantom.keys(config).cohort
    sums = json.loads((folder / MANIFEST).read_text())["sha256"]
    arrays = {str(path.relative_to(folder)): path for path in folder.glob("*-*/*.npy")}
    assert arrays
    for name, path in arrays.items():
        assert sums[name] == hashlib.sha256(path.read_bytes()).hexdigest()
