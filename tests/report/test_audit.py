import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.data.image_pack import open_images
from cxr_ray.data.prepared import COHORT_FILE, SHIFTED_DATE, read_cohort
from cxr_ray.report.audit import AUDIT_FILE, audit_cohort, write_audit
from cxr_ray.storage import Storage

LAUNCH = Path(__file__).parents[2] / "launch"


def _folder(phantom, config):
    return phantom.storage.prepared / phantom.prepare(config).cohort


@pytest.fixture
def own_copy(phantom, tmp_path):
    """The prepared tiny phantom, to plant leaks in."""
    config = tiny_config()
    phantom.prepare(config)
    storage = Storage.open(str(tmp_path / "storage"))
    shutil.copytree(phantom.storage.root, storage.root, dirs_exist_ok=True)
    return PreparedPhantom(storage)


@pytest.fixture(scope="module")
def plain(phantom):
    """The audit of the plain tiny phantom."""
    config = tiny_config()
    return audit_cohort(_folder(phantom, config), source=phantom.source(config))


def _found(audit):
    return {finding.kind: finding for finding in audit.findings}


def _plant_overlap(folder):
    cohort = read_cohort(folder)
    one, two = (cohort.index[cohort["part"] == part][0] for part in ("train", "test"))
    cohort.loc[two, ["patient", "group"]] = cohort.loc[one, ["patient", "group"]]
    (folder / COHORT_FILE).write_text(cohort.to_csv(index=False))
    return set(cohort.loc[[one, two], "record_id"])


def test_a_plain_phantom_raises_no_alarm(plain):
    assert {finding.grade for finding in plain.findings} == {"information"}
    assert set(_found(plain)) == {
        "patient_overlap",
        "image_copies",
        "text_probe",
        "text_probe:label_terms",
        "text_probe:all_finding_terms",
        "identical_texts",
        "label_words",
        "label_source",
        "shortcut:image width",
        "shortcut:image height",
        "shortcut:shifted study date",
    }
    assert _found(plain)["label_source"].value == 1


def test_view_and_mask_decide_what_is_looked_at(phantom):
    folder = _folder(phantom, tiny_config())
    audit = audit_cohort(folder, sections=("indication",), mask="drop_sentence")
    assert _found(audit)["label_source"].value == 0
    assert "text_probe:drop_sentence" in _found(audit)


def test_a_leaky_phantom_is_found_by_word_counts(tmp_path):
    leaky = PreparedPhantom(Storage.open(str(tmp_path)))
    config = tiny_config(phantom__leaky=True)
    probe = _found(audit_cohort(_folder(leaky, config)))["text_probe"]
    assert probe.value >= 0.95


def test_planted_leaks_of_every_kind_are_found(own_copy):
    config = tiny_config()
    folder = _folder(own_copy, config)
    overlapping = _plant_overlap(folder)
    cohort = read_cohort(folder)
    (pack,) = folder.glob("images-*")
    images = np.array(open_images(pack))
    one, two = (cohort.loc[cohort["part"] == part, "row"].iloc[1] for part in ("train", "test"))
    images[two] = np.clip(images[one] * 1.03 + 3.0, 0, 255)
    np.save(pack / "images.npy", images)
    (path,) = folder.glob("reports/*.parquet")
    reports = pd.read_parquet(path)
    reports.loc[two, "text"] = reports.loc[one, "text"]
    positive = cohort.loc[cohort["label"] == 1, "row"]
    reports.loc[positive, "text"] += "\n Pneumonia."
    reports.to_parquet(path)
    cohort["scanner"] = np.where(cohort["label"] == 1, "new", "old")
    (folder / COHORT_FILE).write_text(cohort.to_csv(index=False))

    audit = audit_cohort(folder)
    found = _found(audit)
    copied = cohort.loc[cohort["row"] == two, "record_id"].item()
    assert audit.stops
    assert audit.findings[0].kind == "patient_overlap"
    assert set(found["patient_overlap"].record_ids) == overlapping
    assert (found["image_copies"].grade, *found["image_copies"].record_ids) == ("finding", copied)
    assert found["label_words"].grade == "finding"
    assert found["shortcut:scanner"].grade == "finding"
    assert found["text_probe"].value >= 0.95


def test_the_kind_of_the_image_files_can_be_a_shortcut(own_copy):
    folder = _folder(own_copy, tiny_config())
    # A source whose tables do not say how large the images are.
    cohort = read_cohort(folder).drop(columns=["image_width", "image_height"])
    (folder / COHORT_FILE).write_text(cohort.to_csv(index=False))
    positive = set(cohort.loc[cohort["label"] == 1, "image"])

    class TwoHospitals:
        def read_image(self, reference):
            written = io.BytesIO()
            if reference == sorted(positive)[0]:
                raise FileNotFoundError(reference)
            is_positive = reference in positive
            kind, mode, side = ("PNG", "RGB", 48) if is_positive else ("JPEG", "L", 40)
            Image.new(mode, (side, 40)).save(written, kind)
            return written.getvalue()

    found = _found(audit_cohort(folder, source=TwoHospitals()))
    assert found["shortcut:image width"].grade == "finding"
    assert found["shortcut:image file kind"].grade == "finding"
    assert found["shortcut:image height"].grade == "information"
    assert found["shortcut:image width"].n == len(cohort) - 1


def test_what_the_sources_table_says_of_an_image_can_be_a_shortcut(own_copy):
    folder = _folder(own_copy, tiny_config())
    cohort = read_cohort(folder)
    later = np.where(cohort["label"] == 1, 1, 0)
    cohort["view"] = np.where(later, "AP", "PA")
    cohort["image_width"] = 2544 + 512 * later
    cohort[SHIFTED_DATE] = 21800506 + later
    (folder / COHORT_FILE).write_text(cohort.to_csv(index=False))
    found = _found(audit_cohort(folder))
    assert found["shortcut:view"].grade == "finding"
    assert found["shortcut:image width"].grade == "finding"
    date = found["shortcut:shifted study date"]
    assert (date.grade, date.value) == ("information", 1.0)
    assert "between patients this proves nothing" in date.sentence


def test_a_missing_report_can_be_a_shortcut(own_copy):
    folder = _folder(own_copy, tiny_config())
    cohort = read_cohort(folder)
    cohort.loc[cohort["label"] == 1, "report"] = ""
    (folder / COHORT_FILE).write_text(cohort.to_csv(index=False))
    assert _found(audit_cohort(folder))["shortcut:missing report"].grade == "finding"


def test_the_files_hold_every_finding_and_no_patient_text_or_path(phantom, plain, tmp_path):
    text = write_audit(plain, tmp_path).read_text()
    written = json.loads((tmp_path / AUDIT_FILE).read_text())
    assert [each["sentence"] for each in written["findings"]] == [
        finding.sentence for finding in plain.findings
    ]
    assert all(finding.sentence in text for finding in plain.findings)
    cohort = read_cohort(_folder(phantom, tiny_config()))
    both = text + (tmp_path / AUDIT_FILE).read_text()
    for column in ("record", "patient", "image", "report"):
        assert not any(str(value) in both for value in cohort[column])
    assert "year old" not in both


def test_the_script_refuses_patients_in_two_parts_and_names_their_records(own_copy):
    # As the script does, ask for everything that the source has at the profile's settings.
    folder = _folder(own_copy, tiny_config())
    overlapping = _plant_overlap(folder)
    command = [sys.executable, LAUNCH / "audit.py", "--profile", "tiny"]
    command += ["--set", "data.max_bad_share=0.05", "--storage", own_copy.storage.root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    line = done.stdout[done.stdout.index("\nstop ") :]
    assert all(name in line for name in overlapping)
    assert (folder / AUDIT_FILE).exists()
