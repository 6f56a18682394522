import pickle
import zipfile
from pathlib import Path

import fsspec
import pytest
from small_sets import ORIENTATION, configured, jpeg_bytes

from cxr_ray.data.cohort import select_cohort
from cxr_ray.data.sources import open_source
from cxr_ray.errors import InputError

PAPER_RULES = [
    "all images of the metadata table",
    "view not PA",
    "orientation missing",
    "orientation not Erect",
    "portable",
    "no row in the label table",
    "uncertain label",
    "neither positive nor negative",
    "both positive and No Finding",
    "further images of a study",
    "further records of a patient",
]


def select(folder, reports=None, check_files=False, **sections):
    config = configured(**sections)
    source = open_source(f"mimic:{folder}", config, Path("unused"), reports)
    return select_cohort(source, config, check_files=check_files)


def dropped(cohort):
    return {step.rule: step.dropped for step in cohort.flow}


def test_each_decoy_is_dropped_under_a_rule_of_its_own(mimic_tables, tmp_path):
    t = mimic_tables
    t.add_background(20)
    t.add(15000000, 55000000, "zz-lateral", ViewPosition="LATERAL")
    t.add(15000000, 55000000, "blank-view", ViewPosition=None)
    t.add(10000001, 50000001, positive=True, ViewPosition="AP")
    t.add(10000002, 50000002, positive=True, **{ORIENTATION: None})
    t.add(10000003, 50000003, positive=True, **{ORIENTATION: "Recumbent"})
    t.add(10000004, 50000004)
    t.add(10000005, 50000005, labels={"Pneumonia": -1.0})
    t.add(10000006, 50000006, labels={"Edema": 1.0, "Pneumonia": 0.0})
    t.add(10000007, 50000007, labels={"Pneumonia": 1.0, "No Finding": 1.0})
    t.add(15000000, 55000000, "55000000-b")
    t.add(15000001, 50000008, positive=True, StudyDate=21800507)
    for i, name in enumerate(
        ("CHEST (PORTABLE AP)", "CHEST (PA AND LAT) PORT", "CHEST PORT. LINE PLACEMENT")
    ):
        t.add(11000000 + i, 51000000 + i, positive=True, PerformedProcedureStepDescription=name)
    t.add(12000000, 52000000, positive=True, ProcedureCodeSequence_CodeMeaning="chest (portable)")
    cohort = select(t.write(tmp_path))
    counts = [(step.rule, step.dropped) for step in cohort.flow[: len(PAPER_RULES)]]
    assert counts == list(zip(PAPER_RULES, [0, 3, 1, 1, 4, 1, 1, 1, 1, 1, 1], strict=True))
    assert all(step.before - step.dropped == step.after for step in cohort.flow)
    assert len(cohort.frame) == 20
    assert cohort.frame["label"].sum() == 10
    assert (cohort.flow[-1].positive, cohort.flow[-1].negative) == (10, 10)


def test_a_word_that_only_begins_with_port_is_not_portable(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    mimic_tables.add(1, 2, positive=True, PerformedProcedureStepDescription="PORTACATH, SUPPORT")
    assert "2" in set(select(mimic_tables.write(tmp_path)).frame["record"])


def test_times_without_their_leading_zeros_are_compared_as_numbers(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    mimic_tables.add(10000001, 50000002, positive=False, StudyTime="101500")
    mimic_tables.add(10000001, 50000003, positive=True, StudyTime="83013.296")
    frame = select(mimic_tables.write(tmp_path)).frame.set_index("patient")
    assert frame.loc["10000001", "record"] == "50000003"
    assert frame.loc["10000001", "label"] == 1


@pytest.mark.parametrize("time", [None, "soon", "inf"])
def test_a_missing_or_strange_time_sorts_last(mimic_tables, tmp_path, time):
    mimic_tables.add_background(20)
    mimic_tables.add(10000001, 50000001, positive=False, StudyTime=time)
    mimic_tables.add(10000001, 50000002, positive=True, StudyTime="235959")
    frame = select(mimic_tables.write(tmp_path)).frame.set_index("patient")
    assert frame.loc["10000001", "record"] == "50000002"


def test_ties_go_to_the_smaller_study_and_the_first_dicom_id_of_a_study(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    mimic_tables.add(10000001, 50000009, "b", positive=True)
    mimic_tables.add(10000001, 50000008, "d", positive=True)
    mimic_tables.add(10000001, 50000008, "c")
    frame = select(mimic_tables.write(tmp_path)).frame.set_index("patient")
    assert frame.loc["10000001", "image"] == "files/p10/p10000001/s50000008/c.jpg"
    assert frame.loc["10000001", "report"] == "files/p10/p10000001/s50000008.txt"


def test_impossible_calendar_dates_are_only_numbers(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    mimic_tables.add(10000001, 50000001, positive=True, StudyDate=21809999)
    mimic_tables.add(10000001, 50000002, positive=True, StudyDate=21810000)
    frame = select(mimic_tables.write(tmp_path)).frame.set_index("patient")
    assert frame.loc["10000001", "record"] == "50000001"


def test_patients_with_several_records_can_be_dropped_or_kept_whole(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    mimic_tables.add(15000000, 50000001, positive=True)
    folder = mimic_tables.write(tmp_path)
    once = select(folder, cohort={"per_patient": "drop_repeated"})
    assert "15000000" not in set(once.frame["patient"])
    assert dropped(once)["patients with several records"] == 2
    everything = select(folder, cohort={"per_patient": "all"})
    parts = everything.frame[everything.frame["patient"] == "15000000"]["part"]
    assert len(parts) == 2 and parts.nunique() == 1


@pytest.mark.parametrize(
    ("rules", "positive", "negative"),
    [
        ({}, 10, 10),
        ({"uncertain": "positive"}, 11, 10),
        ({"uncertain": "negative"}, 10, 11),
        ({"negative": "label_negative"}, 10, 1),
        ({"negative": "not_positive"}, 10, 12),
        ({"negative": "not_positive", "uncertain": "negative"}, 10, 13),
        ({"label": "Edema", "negative": "not_positive"}, 1, 22),
    ],
)
def test_the_rules_for_the_label_decide_the_classes(
    mimic_tables, tmp_path, rules, positive, negative
):
    t = mimic_tables
    t.add_background(20)
    t.add(10000001, 50000001, labels={"Pneumonia": -1.0})
    t.add(10000002, 50000002, labels={"Pneumonia": 0.0, "Edema": 1.0})
    t.add(10000003, 50000003, labels={"Fracture": 1.0})
    config = configured(cohort=rules)
    frame, _ = open_source(f"mimic:{t.write(tmp_path)}", config, tmp_path).select(config)
    assert ((frame["label"] == 1).sum(), (frame["label"] == 0).sum()) == (positive, negative)


def test_rows_and_columns_are_optional_rules(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    mimic_tables.add(10000001, 50000001, positive=True, Rows=2544, Columns=3056)
    folder = mimic_tables.write(tmp_path)
    assert len(select(folder).frame) == 21
    cohort = select(folder, cohort={"rows": 3056, "columns": 2544})
    assert dropped(cohort)["rows not 3056"] == 1


def test_view_and_orientation_can_be_switched_off(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    mimic_tables.add(1, 2, positive=True, ViewPosition="AP", **{ORIENTATION: None})
    cohort = select(mimic_tables.write(tmp_path), cohort={"view": None, "orientation": None})
    assert len(cohort.frame) == 21


def test_size_and_date_are_kept_for_the_audit_and_the_view_where_no_rule_fixes_it(
    mimic_tables, tmp_path
):
    mimic_tables.add_background(20)
    mimic_tables.add(1, 2, positive=True, ViewPosition="AP", Rows=2022, StudyDate=21990101)
    for row in mimic_tables.metadata:
        del row["Columns"]
    folder = mimic_tables.write(tmp_path)
    kept = select(folder).frame
    assert {"image_height", "shifted_study_date"} <= set(kept.columns)
    assert not {"view", "image_width"} & set(kept.columns)
    (row,) = select(folder, cohort={"view": None}).frame.query("record == '2'").to_dict("records")
    assert (row["view"], row["image_height"], row["shifted_study_date"]) == (
        "AP",
        2022,
        "21990101",
    )


def test_the_official_split_is_taken_over_and_unlisted_images_dropped(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    names = ["train"] * 10 + ["validate"] * 4 + ["test"] * 5
    mimic_tables.split = [
        (*row[:3], name) for row, name in zip(mimic_tables.split, names, strict=False)
    ]
    cohort = select(mimic_tables.write(tmp_path), data={"split": {"kind": "official"}})
    assert cohort.frame["part"].value_counts().to_dict() == {"train": 10, "val": 4, "test": 5}
    assert dropped(cohort)["not in the official split"] == 1


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("version", ["2.0.0", "2.1.0", "3"])
def test_any_version_is_read_zipped_or_not(mimic_tables, tmp_path, version, zipped):
    mimic_tables.add_background(20)
    folder = mimic_tables.write(tmp_path, version=version, zipped=zipped)
    assert len(select(folder).frame) == 20


def test_lines_that_end_with_a_carriage_return_alone_are_read(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    folder = mimic_tables.write(tmp_path, zipped=False)
    for path in folder.glob("*.csv"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    assert len(select(folder).frame) == 20


def test_a_header_of_any_length_is_refused_in_one_short_sentence(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    folder = mimic_tables.write(tmp_path, zipped=False)
    path = folder / "mimic-cxr-2.0.0-chexpert.csv"
    path.write_text("a" * 300_000 + "\n" + path.read_text())
    with pytest.raises(InputError, match=r"not a label of .*chexpert\.csv; it has aaa") as caught:
        select(folder)
    assert len(str(caught.value)) < 800


def test_two_versions_side_by_side_are_refused_by_name(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    mimic_tables.write(tmp_path, version="2.0.0")
    with pytest.raises(InputError, match=r"2\.0\.0 and 2\.1\.0"):
        select(mimic_tables.write(tmp_path, version="2.1.0"))


def test_a_missing_column_is_named_with_its_file(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    for row in mimic_tables.metadata:
        row["ViewPosition_"] = row.pop("ViewPosition")
    folder = mimic_tables.write(tmp_path)
    with pytest.raises(InputError, match=r"metadata\.csv\.gz: column 'ViewPosition'"):
        select(folder)
    assert len(select(folder, cohort={"view": None}).frame) == 20


def test_an_unknown_label_is_refused_with_the_names_there_are(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    folder = mimic_tables.write(tmp_path)
    with pytest.raises(InputError, match="'Pnuemonia'.*Atelectasis.*Support Devices"):
        select(folder, cohort={"label": "Pnuemonia"})
    with pytest.raises(InputError, match="No Finding"):
        select(folder, cohort={"label": "No Finding"})


@pytest.mark.parametrize("dicom", ["../../../x", "a/b", "..", "a b", "a\\b", ""])
def test_a_dicom_id_that_would_leave_the_folder_is_refused(mimic_tables, tmp_path, dicom):
    mimic_tables.add_background(20)
    mimic_tables.add(10000001, 50000001, dicom, positive=True)
    with pytest.raises(InputError, match="dicom_id"):
        select(mimic_tables.write(tmp_path))


@pytest.mark.parametrize("subject", ["../../etc", "1e7", None])
def test_a_subject_id_that_is_no_number_is_refused(mimic_tables, tmp_path, subject):
    mimic_tables.add_background(20)
    mimic_tables.add(subject, 50000001, positive=True)
    with pytest.raises(InputError, match=r"metadata\.csv"):
        select(mimic_tables.write(tmp_path, zipped=False))


def test_a_broken_archive_and_a_repeated_study_are_input_errors(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    folder = mimic_tables.write(tmp_path / "a")
    name = "mimic-cxr-2.0.0-metadata.csv.gz"
    (folder / name).write_bytes((folder / name).read_bytes()[:300])
    with pytest.raises(InputError, match=name):
        select(folder)
    mimic_tables.labels.append(mimic_tables.labels[0])
    with pytest.raises(InputError, match="1 rows repeat a study"):
        select(mimic_tables.write(tmp_path / "b"))


def write_files(folder, frame, prefix="reports"):
    for image, report in zip(frame["image"], frame["report"], strict=True):
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes(jpeg_bytes())
        path = folder / prefix / report
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"FINDINGS: clear \xff")


def test_records_without_an_image_or_a_report_are_dropped_last(mimic_tables, tmp_path):
    mimic_tables.add_background(30)
    folder = mimic_tables.write(tmp_path)
    frame = select(folder).frame
    write_files(folder, frame)
    (folder / frame["image"][3]).unlink()
    (folder / "reports" / frame["report"][4]).unlink()
    (folder / "reports" / frame["report"][5]).unlink()
    cohort = select(folder, check_files=True)
    assert cohort.modalities == cohort.required == ("image", "text")
    assert [(s.rule, s.dropped) for s in cohort.flow[-2:]] == [
        ("image missing", 1),
        ("report missing", 2),
    ]
    only_image = select(folder, check_files=True, data={"require": "image"})
    assert len(only_image.frame) == 29
    assert len(select(folder).frame) == 30


def test_reports_come_from_a_folder_or_a_zip_with_or_without_files(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    folder = mimic_tables.write(tmp_path / "mimic")
    frame = select(folder).frame
    write_files(folder, frame, prefix="../elsewhere")
    elsewhere = tmp_path / "elsewhere"
    archive = tmp_path / "reports.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for report in frame["report"]:
            file.write(elsewhere / report, f"mimic-cxr-reports/{report}")
    for place in (elsewhere, elsewhere / "files", archive):
        source = open_source(f"mimic:{folder}", configured(), tmp_path, str(place))
        source = pickle.loads(pickle.dumps(source))
        present = source.present("text", [*frame["report"], "files/p1/p1/s1.txt", None])
        assert present.tolist() == [True] * 20 + [False, False]
        assert source.read_report(frame["report"][0]) == "FINDINGS: clear �"


def test_a_cloud_folder_is_read_through_fsspec(mimic_tables):
    mimic_tables.add_background(20)
    system = fsspec.filesystem("memory")
    for name, raw in mimic_tables.contents().items():
        system.pipe_file(f"/bucket/mimic/{name}", raw)
    frame = select("memory://bucket/mimic").frame
    for image, report in zip(frame["image"], frame["report"], strict=True):
        system.pipe_file(f"/bucket/mimic/{image}", b"jpeg")
        system.pipe_file(f"/bucket/mimic/reports/{report}", b"text")
    system.rm(f"/bucket/mimic/{frame['image'][0]}")
    cohort = select("memory://bucket/mimic", check_files=True)
    assert dropped(cohort)["image missing"] == 1
    source = open_source("mimic:memory://bucket/mimic", configured(), Path("unused"))
    assert source.read_image(frame["image"][1]) == b"jpeg"
    assert source.read_report(frame["report"][1]) == "text"


def test_the_fingerprint_depends_on_content_alone(mimic_tables, tmp_path):
    mimic_tables.add_background(20)

    def fingerprint(folder):
        return open_source(f"mimic:{folder}", configured(), tmp_path).fingerprint()

    one = fingerprint(mimic_tables.write(tmp_path / "a"))
    assert one == fingerprint(mimic_tables.write(tmp_path / "b", version="9"))
    mimic_tables.labels[0]["Pneumonia"] = 0.0
    assert one != fingerprint(mimic_tables.write(tmp_path / "c"))


def test_references_cannot_leave_the_folder(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    source = open_source(f"mimic:{mimic_tables.write(tmp_path / 'm')}", configured(), tmp_path)
    (tmp_path / "secret").write_text("x")
    for reference in ("../secret", "/etc/passwd", "files/../../secret", ""):
        assert not source.present("image", [reference]).any()
        with pytest.raises(InputError, match="inside"):
            source.read_image(reference)


def test_places_and_kinds_that_do_not_exist_are_named(tmp_path):
    for spec, words in (
        ("mimic:/nowhere", "/nowhere does not exist"),
        ("mimik:x", "known: phantom, mimic, openi, table"),
        ("mimic", "needs a path"),
        ("phantom:wild", "phantom:leaky"),
    ):
        with pytest.raises(InputError, match=words):
            open_source(spec, configured(), tmp_path)
    with pytest.raises(InputError, match="--reports"):
        open_source("phantom", configured(), tmp_path, reports="x")
