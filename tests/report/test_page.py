import csv
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from small_page import (
    IDS,
    LOSSES,
    MODALITIES,
    PATIENT,
    REASON,
    RECORD,
    TEST,
    TITLE,
    Page,
    make_study,
)

from cxr_ray.errors import InputError
from cxr_ray.report.calibration_section import CALIBRATION, POINTS
from cxr_ray.report.page import PAGE_FILE, rebuild_page
from cxr_ray.report.result_table import format_share
from cxr_ray.report.study_audit import AUDIT_TABLE
from cxr_ray.report.templates import format_chance, format_signed


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def page(study_folder):
    return Page(rebuild_page(study_folder))


@pytest.fixture(scope="module")
def seeded_folder(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("seeded"), seeds=3)


@pytest.fixture(scope="module")
def seeded_page(seeded_folder):
    return Page(rebuild_page(seeded_folder))


def check_figures(page, study_folder):
    """Hold every figure of a page against its CSV; the files that it shows."""
    tables = {}
    assert len(page.figures) > 200
    for file, place, attributes, text in page.figures:
        if file not in tables:
            with (study_folder / file).open(newline="") as lines:
                tables[file] = list(csv.DictReader(lines))
        there = tables[file][int(place)][attributes["data-column"]]
        assert attributes["data-value"] == there
        if there == "":
            assert text == "-"
        elif text == "<.001":
            assert attributes["data-column"] in {"p_value", "p_holm"}
            assert float(there) < 0.001
        else:
            digits = len(text.partition(".")[2])
            assert float(text) == float(f"{float(there):.{digits}f}")
            assert digits in {0, 1, 4}
    return set(tables)


EVERY_FILE = {"leaderboard.csv", "comparisons.csv", "sensitivity.csv", "contribution.csv"} | {
    "audit.csv",
    "rescored.csv",
}


def test_every_figure_is_its_csv_figure_rounded(page, study_folder):
    assert check_figures(page, study_folder) == EVERY_FILE


def test_several_seeds_are_shown_by_arm_with_every_model_folded_away(seeded_page, seeded_folder):
    assert check_figures(seeded_page, seeded_folder) == EVERY_FILE | {"summary.csv"}
    _, *arms = seeded_page.cells["summary.csv"]
    assert {line[0] for line in arms} == {f"{m}-full-{loss}" for m, loss in IDS}
    assert len(arms) == len(IDS)
    assert arms[0][1:3] == ["both", "3"]
    text = " ".join(seeded_page.text.split())
    assert "Mean over 2 to 3 training seeds ± standard deviation over seeds" in text
    assert "Every trained model (16 rows)" in text
    shown = {each[2]["data-column"] for each in seeded_page.figures if each[0] == "summary.csv"}
    assert {"auroc", "auroc_sd", "auroc_low", "auroc_high", "f1_sd", "n_seeds"} <= shown


def test_the_answer_over_seeds_has_the_interval_of_the_mean(seeded_page, seeded_folder):
    summary = pd.read_csv(seeded_folder / "summary.csv")
    best = summary.loc[summary["auroc"].idxmax()]
    area, low, high = (format_share(best[f"auroc{end}"]) for end in ("", "_low", "_high"))
    name = "-".join(best[["modality", "dataset", "loss"]])
    seeds = f"mean of {best['n_seeds']} seeds"
    interval = "" if low == "-" else f" [{low}, {high}]"
    assert f"The highest AUROC is {area}{interval} ({name}, {seeds})" in seeded_page.text


def test_every_row_of_comparisons_modality_use_and_audit_is_shown(page, study_folder):
    shown_whole = ("comparisons", "sensitivity", "contribution", "audit", "rescored")
    for file in (f"{name}.csv" for name in shown_whole):
        shown = {int(place) for name, place, _, _ in page.figures if name == file}
        assert shown == set(range(len(pd.read_csv(study_folder / file))))


def test_every_multimodal_model_has_a_sentence_on_what_its_shuffles_show(page, study_folder):
    sensitivity = pd.read_csv(study_folder / "sensitivity.csv", dtype={"experiment_id": str})
    text = " ".join(page.text.split())
    assert sensitivity["experiment_id"].nunique() == 2
    for loss in LOSSES:
        rows = sensitivity[sensitivity["experiment_id"] == IDS["multimodal", loss]]
        found = rows[rows["metric"] == "auroc"].set_index("perturbation")
        drops = [format_share(found.loc[f"{m}_shuffled", "drop"]) for m in MODALITIES[1:]]
        assert (
            f"multimodal-full-{loss} is not shown to use the image (AUROC falls by {drops[0]} when "
            "it is shuffled between patients, p .0100) or the text "
            f"({drops[1]}, p "
        ) in text
    assert text.count("99 permutations are too few for a verdict.") == 2


def test_thresholds_and_calibration_of_every_model_are_shown(page, study_folder):
    leaderboard = pd.read_csv(study_folder / "leaderboard.csv")
    shown = {
        (int(place), attributes["data-column"])
        for file, place, attributes, _ in page.figures
        if file == "leaderboard.csv"
    }
    for place, row in leaderboard[leaderboard["status"] == "done"].iterrows():
        if row["test_set"] == "own":
            columns = [f"{name}_at_{at}" for at in POINTS for name in ("threshold", "recall", "f1")]
        else:
            columns = [name + end for name in CALIBRATION for end in ("", "_recalibrated")]
        assert {(place, column) for column in columns} <= shown
    assert "as none was declared" in page.text
    assert sum("Decision curves" in image["alt"] for image in page.all("img")) == 1


def test_the_tables_beside_the_paper_are_their_csv(page, study_folder):
    files = sorted(path.name for path in study_folder.glob("table_figure_*.csv"))
    assert len(files) == 2
    for file in files:
        _, *shown = page.cells[file]
        with (study_folder / file).open(newline="") as lines:
            _, *there = csv.reader(lines)
        texts = [[cell.rstrip("*").strip() for cell in row] for row in shown]
        assert [["" if cell == "-" else cell for cell in row] for row in texts] == there


def test_small_chances_and_signs_are_spelt_out():
    assert [format_chance(p) for p in (0.00099, 0.001, 0.05, None)] == [
        "<.001",
        ".0010",
        ".0500",
        "-",
    ]
    assert [format_signed(d) for d in (0.01, -0.01, 0.0, None)] == [
        "+.0100",
        "-.0100",
        ".0000",
        "-",
    ]


def test_differences_are_printed_with_their_sign(page):
    shown = [each[-1] for each in page.figures if each[2]["data-column"] == "difference"]
    signs = {text[0] for text in shown if float(text if text != "-" else "nan")}
    assert signs <= {"+", "-"}
    assert "-" in signs


def test_the_page_is_one_file_that_asks_for_nothing(page):
    assert not page.all("script")
    assert not page.all("link")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    inside = [link["href"] for link in page.all("a") if link["href"].startswith("#")]
    assert {link["href"] for link in page.all("a")} - set(inside) == {"checklist.html"}
    assert "http://" not in page.source
    assert "https://" not in page.source


def test_pictures_have_text_and_every_link_has_its_section(page):
    assert len(page.all("img")) >= 3
    assert all(image["alt"].strip() for image in page.all("img"))
    assert len(page.all("h1")) == 1
    places = {attributes.get("id") for _, attributes in page.elements}
    links = {link["href"] for link in page.all("a")}
    assert {link[1:] for link in links if link.startswith("#")} <= places


def test_the_checklist_beside_the_page_links_to_sections_that_the_page_has(page, study_folder):
    checklist = Page(study_folder / "checklist.html")
    places = {attributes.get("id") for _, attributes in page.elements}
    links = {link["href"] for link in checklist.all("a")}
    sections = {link.removeprefix("report.html#") for link in links if "report.html#" in link}
    assert {"answer", "cohort", "audit", "leaderboard", "repeat"} <= sections <= places


def test_text_of_a_study_stays_text(page):
    assert TITLE in page.text
    assert REASON in page.text
    assert "view < PA" in page.text


def test_no_record_or_patient_is_named(page):
    assert RECORD not in page.source
    assert PATIENT not in page.source


def test_long_tables_are_folded_away(page):
    assert "Exploratory comparisons" in page.text
    assert len(page.all("details")) >= 3


def test_what_failed_and_what_is_missing_is_named(page):
    assert f"text-full-focal: failed, {REASON}" in page.text
    assert "Not trained yet: image-full-focal." in page.text


def test_the_flow_adds_up_from_what_was_found_to_the_parts(page):
    assert page.text.count("100 images excluded") == 1
    flow = page.text[page.text.index("700 images") : page.text.index("Every rule")]
    assert "100 view < PA" in flow
    assert "600 images120 positive, 480 negative" in flow.replace("\n", "")
    assert flow.count(f"{TEST} records") == 3


def test_a_grave_finding_is_in_the_answer_and_at_the_head_of_the_audit(page):
    first_screen = page.text[: page.text.index("Leaderboard")]
    leak = "the audit found that word counts of the text alone predict the label (AUROC .9877)."
    assert leak in first_screen
    assert first_screen.count("audit found") == 1
    assert "can recover the label without having diagnosed" in page.text
    assert "Checks for information (2)" in page.text


def test_a_study_without_findings_says_that_this_proves_nothing(tmp_path, study_folder):
    moved = tmp_path / "studies" / "small"
    shutil.copytree(study_folder, moved)
    audit = pd.read_csv(moved / AUDIT_TABLE)
    audit[audit["grade"] == "information"].to_csv(moved / AUDIT_TABLE, index=False)
    page = Page(rebuild_page(moved))
    assert "None of 2 checks has both effect and evidence" in page.text
    assert "audit found" not in page.text
    (moved / AUDIT_TABLE).unlink()
    assert "Leakage audit" not in Page(rebuild_page(moved)).text


def test_rebuilding_needs_neither_torch_nor_ray(study_folder):
    code = (
        "import sys; from pathlib import Path; from cxr_ray.report.page import rebuild_page; "
        "rebuild_page(Path(sys.argv[1])); "
        "sys.exit(bool({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(study_folder)], timeout=240)
    assert done.returncode == 0


def test_a_folder_that_is_no_study_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"holds no study\.json: give a folder of STORAGE/studies"):
        rebuild_page(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds no leaderboard\.csv: repeat the sweep"):
        rebuild_page(tmp_path)
    (tmp_path / "leaderboard.csv").write_text("")
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(InputError, match=r"study\.json is damaged: remove it and repeat the sweep"):
        rebuild_page(tmp_path)


def test_a_study_of_failed_trials_only_says_so_and_still_has_a_page(tmp_path):
    page = Page(rebuild_page(make_study(tmp_path, ended=list(IDS.values()))))
    assert "No trial of this study has finished (6 of 6 failed)" in page.text
    assert not page.all("img")


def test_a_study_whose_trial_folders_are_gone_keeps_its_tables(tmp_path, study_folder):
    moved = tmp_path / "studies" / "small"
    moved.mkdir(parents=True)
    for path in study_folder.iterdir():
        if path.name != PAGE_FILE:
            (moved / path.name).write_bytes(path.read_bytes())
    page = Page(rebuild_page(moved))
    assert "The prepared cohort is not in this storage." in page.text
    assert any(file == "leaderboard.csv" for file, *_ in page.figures)


def test_the_agreement_of_two_labellers_is_shown_with_the_cohort(page):
    assert "Pneumonia by chexpert (rows) and negbio (columns)" in page.text
    assert "over all four 0.700 [0.600, 0.800]; positive or not none: one category" in page.text
    assert ["positive", "1,234", "5"] in page.cells[None]
