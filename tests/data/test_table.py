import pickle
from pathlib import Path

import pytest
import yaml
from small_sets import configured, jpeg_bytes

from cxr_ray.data.cohort import select_cohort
from cxr_ray.data.reports import parse_report
from cxr_ray.data.sources import open_source
from cxr_ray.errors import InputError

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
BASIC = {
    "csv": "table.csv",
    "patient": "who",
    "image": "file",
    "text": "note",
    "label": {"column": "finding", "positive": ["ill"], "negative": ["well"]},
}
COLUMNS = ("key", "who", "file", "note", "finding", "view", "day")


def rows(number=12):
    return [
        (f"k{i}", f"p{i}", f"{i}.jpg", "a note", "ill" if i % 2 else "well", "PA", str(i))
        for i in range(number)
    ]


def write(folder, records, images=None, **changed):
    folder.mkdir(exist_ok=True)
    lines = ["\t".join(COLUMNS), *("\t".join(record) for record in records)]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    recipe = {k: v for k, v in (BASIC | {"delimiter": "\t"} | changed).items() if v is not None}
    (folder / "own.yaml").write_text(yaml.safe_dump(recipe))
    for record in records if images is None else images:
        if record[2]:
            path = folder / record[2].lstrip("/")
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(jpeg_bytes())
    return folder / "own.yaml"


def select(file, **sections):
    config = configured(**sections)
    return select_cohort(open_source(f"table:{file}", config, Path("unused")), config)


def dropped(cohort):
    return {step.rule: step.dropped for step in cohort.flow}


def test_rules_drop_rows_under_names_of_their_own(tmp_path):
    records = rows(12) + [
        ("a", "", "a.jpg", "n", "ill", "PA", "1"),
        ("b", "pb", "b.jpg", "n", "ill", "L", "1"),
        ("c", "pc", "c.jpg", "n", "unsure", "PA", "1"),
        ("d", "pd", "", "n", "ill", "PA", "1"),
        ("e", "pe", "e.jpg", " ", "ill", "PA", "1"),
    ]
    cohort = select(write(tmp_path, records, id="key", where={"view": ["PA", "AP"]}))
    assert dropped(cohort) == {
        "all rows of the table": 0,
        "patient blank": 1,
        "view not PA or AP": 1,
        "label not in the rule": 1,
        "image path outside the folder": 0,
        "image, text and label listed before": 0,
        "image missing": 1,
        "report missing": 1,
    }
    assert set(cohort.frame["record"]) == {f"k{i}" for i in range(12)}


def test_without_require_for_text_a_missing_note_is_an_empty_text(tmp_path):
    records = [*rows(12), ("e", "pe", "e.jpg", "", "ill", "PA", "1")]
    file = write(tmp_path, records, id="key", require=["image"])
    cohort = select(file)
    assert len(cohort.frame) == 13
    assert (cohort.flow[-1].rule, cohort.flow[-1].dropped) == ("report not required", 0)
    assert cohort.flow[-1].note == "1 positive and 0 negative have none and are kept as empty texts"
    source = pickle.loads(pickle.dumps(open_source(f"table:{file}", configured(), tmp_path)))
    assert source.read_report("e") == ""
    assert source.read_report("k1") == "a note"


def test_sections_in_columns_become_one_report_that_parses(tmp_path):
    file = write(tmp_path, rows(), id="key", text={"indication": "note", "findings": "view"})
    source = open_source(f"table:{file}", configured(), tmp_path)
    sections = parse_report(source.read_report("k1")).sections
    assert sections == {"indication": "a note", "findings": "PA"}


def test_patients_who_share_an_image_file_are_one_group(tmp_path):
    records = rows(12) + [
        ("x", "p0", "p.jpg", "n", "ill", "PA", "1"),
        ("y", "z9", "./p.jpg", "m", "ill", "PA", "1"),
        ("z", "z9", "q.jpg", "n", "ill", "PA", "1"),
        ("w", "a1", "q.jpg", "n", "well", "L", "1"),
    ]
    cohort = select(write(tmp_path, records, id="key", where=[{"view": "PA"}]))
    patient = cohort.frame.set_index("record")["patient"]
    assert patient["k0"] == patient["x"] == patient["y"] == patient["z"] == "a1"
    assert cohort.frame.groupby("patient")["part"].nunique().max() == 1
    notes = [step.note for step in cohort.flow if step.rule == "patients who share an image file"]
    assert notes == ["13 patients form 12 groups, so that no image is in two parts"]


def test_image_paths_stay_inside_the_folder_or_are_dropped(tmp_path):
    folder = tmp_path / "set"
    (tmp_path / "out.jpg").write_bytes(jpeg_bytes())
    records = [*rows(12)]
    records += [
        ("up", "u", "../out.jpg", "n", "ill", "PA", "1"),
        ("abs", "v", "/etc/passwd", "n", "ill", "PA", "1"),
        ("in", "w", f"{folder}/1.jpg", "n", "ill", "PA", "1"),
    ]
    cohort = select(write(folder, records, images=rows(12), id="key"))
    assert dropped(cohort)["image path outside the folder"] == 2
    assert cohort.frame.set_index("record")["image"]["in"] == "1.jpg"


def test_several_records_a_patient_stay_unless_told_otherwise(tmp_path):
    records = [*rows(14), ("late", "p1", "1b.jpg", "n", "well", "PA", "10")]
    records += [("early", "p1", "1c.jpg", "n", "ill", "PA", "-2.5")]
    file = write(tmp_path, records, id="key", order="day")
    assert len(select(file).frame) == 16
    earliest = select(file, cohort={"per_patient": "earliest"})
    assert set(earliest.frame["record"]) >= {"early"} and len(earliest.frame) == 14
    once = select(write(tmp_path, records, id="key", per_patient="drop_repeated"))
    assert "p1" not in set(once.frame["patient"]) and len(once.frame) == 13
    with pytest.raises(InputError, match="order"):
        select(write(tmp_path, records, id="key", per_patient="earliest"))


def test_lists_of_terms_are_positive_by_any_and_negative_by_all(tmp_path):
    records = [
        (f"k{i}", f"p{i}", f"{i}.jpg", "n", finding, "PA", "1")
        for i, finding in enumerate(["ill;other", "well", "well;other", "other", "", "well; ill"])
    ]
    label = BASIC["label"] | {"separator": ";"}
    config = configured()
    source = open_source(f"table:{write(tmp_path, records, label=label)}", config, tmp_path)
    frame, _ = source.select(config)
    assert frame["label"].tolist() == [1, 0, 1]
    assert frame["record"].tolist() == ["row0000001", "row0000002", "row0000006"]


def test_a_row_that_repeats_image_text_and_label_counts_once(tmp_path):
    records = [*rows(12), ("x", "p99", "1.jpg", "a note", "ill", "L", "1")]
    records += [("y", "p1", "1.jpg", "another note", "ill", "PA", "1")]
    cohort = select(write(tmp_path, records, id="key"))
    assert dropped(cohort)["image, text and label listed before"] == 1
    assert set(cohort.frame["record"]) == {f"k{i}" for i in range(12)} | {"y"}


def test_columns_with_names_that_the_cohort_uses_itself_are_only_columns(tmp_path):
    names = {"finding": "label", "note": "report", "who": "record", "view": "part"}
    file = write(tmp_path, rows(12))
    table = tmp_path / "table.csv"
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join(["\t".join(names.get(c, c) for c in COLUMNS), *lines]) + "\n")
    changed = {"patient": "record", "text": "report", "where": {"part": "PA"}}
    label = BASIC["label"] | {"column": "label"}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changed | {"label": label}))
    flow = select(file).flow
    assert (flow[0].positive, flow[0].negative) == (None, None)
    assert (flow[-1].positive, flow[-1].negative) == (6, 6)


def test_declared_metadata_is_kept_with_its_name_and_changes_the_fingerprint(tmp_path):
    file = write(tmp_path, rows(12))
    before = open_source(f"table:{file}", configured(), Path("unused")).fingerprint()
    assert "day" not in select(file).frame
    file = write(tmp_path, rows(12), metadata=["view", "day"])
    frame = select(file).frame
    assert set(frame["view"]) == {"PA"}
    assert sorted(frame["day"], key=int) == [str(number) for number in range(12)]
    assert open_source(f"table:{file}", configured(), Path("unused")).fingerprint() != before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pateint": "x"}, "'pateint'.*did you mean 'patient'"),
        ({"patient": None}, "'patient' is missing"),
        ({"patient": "nobody"}, r"table\.csv: column 'nobody' is missing; it has key"),
        ({"label": {"column": "finding", "positive": ["ill"]}}, "'negative' is missing in label"),
        ({"label": BASIC["label"] | {"negative": ["ill"]}}, "both positive and negative"),
        ({"label": BASIC["label"] | {"positive": [True]}}, "True is not a text; quote it"),
        ({"image": None, "text": None}, "neither image nor text"),
        ({"require": ["picture"]}, "image, text"),
        ({"csv": "../table.csv"}, "^own.yaml: csv: ../table.csv must be a path inside the root$"),
        ({"csv": "other.csv"}, "other.csv is not in"),
        ({"root": "nowhere"}, "root: .*nowhere does not exist"),
        ({"per_patient": "first"}, "earliest, drop_repeated, all"),
        ({"metadata": ["label"]}, "metadata: 'label' is the name of a cohort's own column"),
        ({"metadata": ["weather"]}, "column 'weather' is missing"),
        ({"id": "finding"}, "ids in column .finding. are blank or occur before"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_sentence(tmp_path, changed, words):
    with pytest.raises(InputError, match=words):
        select(write(tmp_path, rows(), **changed))


def test_the_folder_can_be_given_after_an_at_sign_or_in_the_yaml(tmp_path):
    file = write(tmp_path / "data@here", rows())
    elsewhere = tmp_path / "own.yaml"
    elsewhere.write_text(file.read_text())
    assert len(select(f"{elsewhere}@{file.parent}").frame) == 12
    assert len(select(file).frame) == 12
    elsewhere.write_text(file.read_text() + "root: data@here\n")
    assert len(select(elsewhere).frame) == 12


def test_the_fingerprint_covers_meaning_and_content_but_not_places(tmp_path):
    def fingerprint(folder, **changed):
        file = write(tmp_path / folder, rows(), **changed)
        return open_source(f"table:{file}", configured(), tmp_path).fingerprint()

    assert fingerprint("a") == fingerprint("b", name="else")
    assert fingerprint("a") != fingerprint("c", where={"view": "AP"})


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("recipe", "folder", "modalities", "required", "counts"),
    [
        ("covid-chestxray", "covid-chestxray-dataset", ("image", "text"), ("image",), (169, 30)),
        ("kermany", "kermany-chest-xray", ("image",), ("image",), (1374, 448)),
    ],
)
def test_the_shipped_recipes_find_the_known_counts(
    real_data, recipe, folder, modalities, required, counts
):
    cohort = select(f"{RECIPES / recipe}.yaml@{real_data / folder}")
    assert (cohort.modalities, cohort.required) == (modalities, required)
    assert (cohort.flow[-1].positive, cohort.flow[-1].negative) == counts
    assert cohort.frame.groupby("image")["part"].nunique().max() == 1


def test_a_table_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    (tmp_path / "table.csv").write_bytes("finding\nTrübung\n".encode("latin-1"))
    recipe = {"csv": "table.csv", "text": "finding", "patient": "finding", "label": BASIC["label"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=r"table\.csv: byte \d+ is no UTF-8 text"):
        open_source(f"table:{tmp_path / 'recipe.yaml'}", configured(), tmp_path).select(
            configured()
        )
