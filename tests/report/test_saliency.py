"""Which records are explained, what is kept of them, and what the page shows of that."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from small_page import IDS, Page, make_study

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.report.explanation import Explanation, WordAttribution
from cxr_ray.report.page import rebuild_page
from cxr_ray.report.page_files import PAGE_FILE, SHARED_FOLDER
from cxr_ray.report.saliency import (
    ARRAYS_FILE,
    KINDS,
    ExplainedRecord,
    choose_model,
    choose_records,
    read_arrays,
    saliency_table,
    sum_thirds,
    write_arrays,
)
from cxr_ray.report.trial_folder import Predictions, read_predictions, write_predictions
from cxr_ray.storage import write_whole
from cxr_ray.sweep.study import Study

MODEL = IDS["multimodal", "bce"]
WORD = "Haemoptysis"


def predictions(label, logit, part):
    label, logit = np.array(label, np.int8), np.array(logit, float)
    names = np.array([f"{place:02x}" for place in range(len(label))])
    own = np.ones(len(label), bool)
    return Predictions(names, names, np.array(part), own, label, logit, logit)


def test_the_most_confident_right_and_wrong_records_of_the_test_part_are_chosen():
    # the threshold is 1: all positives of validation lie there or above
    found = choose_records(
        predictions(
            label=[0, 1, 1] + [1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1],
            logit=[0, 1, 9] + [2, 4, 3, -1, -3, -2, 5, 1, 0, 0, 0.5],
            part=["val"] * 3 + ["test"] * 11,
        )
    )
    assert found == [
        ("right_positive", 4), ("right_positive", 5),
        ("right_negative", 7), ("right_negative", 8),
        ("wrong_positive", 9), ("wrong_positive", 10),
        ("wrong_negative", 11), ("wrong_negative", 12),
    ]  # fmt: skip


def test_fewer_are_chosen_where_there_are_not_as_many():
    found = choose_records(
        predictions([0, 1, 1, 0], [-1, 1, 2, -2], ["val", "val", "test", "test"])
    )
    assert found == [("right_positive", 2), ("right_negative", 3)]


def test_the_model_is_chosen_on_validation_whatever_the_test_part_says(tmp_path):
    part = np.array(["val"] * 4 + ["test"] * 4)
    label = np.array([0, 0, 1, 1] * 2, np.int8)
    names = np.array(list("abcdefgh"))
    good, bad = [0, 1, 2, 3], [3, 2, 1, 0]
    for name, logit in {"one": bad + good, "two": good + bad, "three": good + bad}.items():
        (tmp_path / name).mkdir()
        write_predictions(
            tmp_path / name, record_id=names, group=names, part=part,
            in_own=np.ones(8, bool), label=label, logit=np.array(logit, float),
        )  # fmt: skip
        (tmp_path / name / "result.json").write_text("{}")
    assert choose_model(tmp_path, ["one", "two", "three"]) == "two"
    (tmp_path / "two" / "result.json").write_text('{"fits": []}')
    (tmp_path / "three" / "result.json").write_text('{"parts": ["val"]}')
    assert choose_model(tmp_path, ["one", "two", "three"]) == "one"
    assert choose_model(tmp_path, []) is None


def explained(name="r1", kind="right_positive", words=True):
    rng = np.random.default_rng(0)
    answer = {"label": 1, "probability": 0.75, "probability_recalibrated": 0.7}
    answer |= {"threshold_at_val": 0.5, "image_contribution": 1.25, "text_contribution": -0.5}
    text = WordAttribution(
        tokens=np.array([0, 0.25, 0.5, -1, 0]),
        words=np.array([0.75, -1]),
        spans=np.array([[0, 11], [12, 20]]),
        sections=np.array(["findings", "technique"]),
        gap=0.001,
    )
    return ExplainedRecord(
        name,
        kind,
        Explanation(
            answer,
            pixels=rng.integers(0, 255, (16, 16), np.uint8),
            heat=np.array([[1.0, 0], [0, -0.5]]),
            text=f"{WORD} chronic.",
            words=text if words else None,
        ),
    )


def test_numbers_are_kept_and_neither_words_nor_pixels(tmp_path):
    records = [explained(), explained("r2", "wrong_negative", words=False)]
    write_arrays(tmp_path, records)
    path = tmp_path / ARRAYS_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    one, two = read_arrays(tmp_path)
    assert (one.record_id, two.kind) == ("r1", "wrong_negative")
    assert one.explanation.answer == records[0].explanation.answer
    for name in WordAttribution.__dataclass_fields__:
        kept, given = (getattr(r.explanation.words, name) for r in (one, records[0]))
        np.testing.assert_array_equal(kept, given)
    assert two.explanation.words is None and two.explanation.heat.shape == (2, 2)
    with np.load(path) as file:
        assert {array.dtype.kind for array in file.values()} <= set("fiU")
        written = {str(value) for a in file.values() if a.dtype.kind == "U" for value in a.flat}
        largest = max(array.size for array in file.values())
    assert written == {"r1", "r2", *("right_positive", "wrong_negative", "findings", "technique")}
    assert largest < records[0].explanation.pixels.size


def test_sums_over_thirds_and_sections_are_those_of_the_arrays():
    heat = np.random.default_rng(1).normal(size=(8, 8))
    assert sum(sum_thirds(heat)) == pytest.approx(heat.sum(), rel=1e-3)
    top = np.zeros((3, 3))
    top[0] = 1
    assert np.argmax(sum_thirds(top)) == 0
    row = saliency_table("abc", [explained()]).iloc[0]
    assert (row["text_findings"], row["text_other"]) == (0.75, -1)
    assert np.isnan(row["text_impression"])
    assert row[["image_upper", "image_middle", "image_lower"]].sum() == pytest.approx(0.5)


@pytest.fixture
def study(tmp_path):
    """A study whose best model has eight explained records, and their prepared data."""
    folder = make_study(tmp_path)
    trial = tmp_path / "trials" / MODEL
    names = read_predictions(trial).record_id[-8:]
    kinds = [kind for kind in KINDS for _ in range(2)]
    records = [explained(name, kind) for name, kind in zip(names, kinds, strict=True)]
    write_arrays(trial, records)
    saliency_table(MODEL, records).to_csv(folder / "saliency.csv", index=False)
    return folder, trial, records


def prepare(folder, trial, records):
    """Write what the page reads of the records' images and texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    storage = folder.parent.parent
    cohort = storage / "prepared" / ("e" * 16)
    (cohort / "images-x").mkdir(parents=True)
    (cohort / "reports").mkdir()
    names = [each.record_id for each in records]
    columns = {"record_id": names, "row": range(8), "record": names, "patient": names}
    pd.DataFrame(columns | {"group": names, "part": "test"}).to_csv(cohort / "cohort.csv")
    np.save(cohort / "images-x" / "images.npy", np.stack([r.explanation.pixels for r in records]))
    texts = [f"{WORD} <script>{place}" for place in range(8)]
    for start in (0, 5):  # two files, as of a larger cohort
        chunk = texts[start : {0: 5, 5: 8}[start]]
        pq.write_table(
            pa.table({"text": chunk}), cohort / "reports" / f"reports-{start:08d}.parquet"
        )
    result = json.loads((trial / "result.json").read_text())
    result["keys"] = {"cohort": cohort.name, "image": "x"}
    (trial / "result.json").write_text(json.dumps(result))
    settings = ExperimentConfig().model_dump(mode="json")
    (trial / "config.yaml").write_text(yaml.safe_dump(settings))


def ask_for_records(folder):
    record = json.loads((folder / "study.json").read_text())
    record["report"] = {"saliency": True, "show_records": True}
    record["uuid"] = "u"
    write_whole(folder / "study.json", json.dumps(record))


def test_the_page_shows_maps_and_sums_without_a_word_or_pixel(study):
    folder, trial, records = study
    prepare(folder, trial, records)
    page = Page(rebuild_page(folder))
    assert 'href="#saliency"' in page.source
    assert "What this is not" in page.text and "patient data" not in page.text
    assert WORD not in page.source
    section = page.source[page.source.index('<section id="saliency"') :]
    section = section[: section.index("</section>")]
    assert len(re.findall("<img ", section)) == 16
    table = pd.read_csv(folder / "saliency.csv")
    figures = [each for each in page.figures if each[0] == "saliency.csv"]
    assert len(figures) == 8 * 10  # five of the answer, three thirds, two sections that occur
    for _, row, attributes, text in figures:
        value = table.iloc[int(row)][attributes["data-column"]]
        assert float(attributes["data-value"]) == pytest.approx(value)
        assert float(text) == pytest.approx(value, abs=1e-4)
    assert not (folder / SHARED_FOLDER).exists()


def test_with_show_records_the_page_warns_and_the_tracker_gets_a_copy_without_them(study):
    folder, trial, records = study
    prepare(folder, trial, records)
    ask_for_records(folder)
    path = rebuild_page(folder)
    assert path == folder / PAGE_FILE and path.stat().st_mode & 0o777 == 0o600
    page = Page(path)
    assert "This page holds patient data" in page.text
    assert page.text.count(WORD) == 8
    assert (
        page.text.count("<script>") == 8 + page.text.count("<script>alert")
        and "<script" not in page.source.split("<body>")[1]
    )
    shared = Page(folder / SHARED_FOLDER / PAGE_FILE)
    assert WORD not in shared.source and "patient data" not in shared.text
    assert "What this is not" in shared.text
    published = Study.read(folder).published()
    assert path not in published and folder / SHARED_FOLDER / PAGE_FILE in published


def test_without_the_prepared_data_the_page_says_why_it_shows_no_records(study):
    folder, trial, records = study
    prepare(folder, trial, records)
    (folder.parent.parent / "prepared" / ("e" * 16) / "images-x" / "images.npy").unlink()
    (folder.parent.parent / "prepared" / ("e" * 16) / "images-x").rmdir()
    ask_for_records(folder)
    page = Page(rebuild_page(folder))
    assert "cannot be shown" in page.text and "is no longer there" in page.text
    assert WORD not in page.source and "What this is not" in page.text


def test_a_study_without_explained_records_has_no_section(tmp_path, study):
    folder, trial, _ = study
    (trial / ARRAYS_FILE).unlink()
    assert 'id="saliency"' not in rebuild_page(folder).read_text()
