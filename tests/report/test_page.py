import csv
import json
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.errors import InputError
from cxr_ray.evaluation.leakage import Finding
from cxr_ray.report.answer import answer
from cxr_ray.report.audit import TextAudit
from cxr_ray.report.calibration_section import CALIBRATION, POINTS
from cxr_ray.report.leaderboard import collect_tables, read_tables
from cxr_ray.report.page import PAGE_FILE, rebuild_page
from cxr_ray.report.result_table import format_share
from cxr_ray.report.study_audit import AUDIT_TABLE, StudyAudit, TextView, write_study_audit
from cxr_ray.report.study_tables import write_study_tables
from cxr_ray.report.templates import format_chance, format_signed
from cxr_ray.report.trial_folder import write_history, write_predictions

TITLE = "Which <script>alert(1)</script> is best?"
QUICK = EvaluationConfig(permutations=99, bootstrap=200)
MODALITIES, LOSSES = ("multimodal", "image", "text"), ("bce", "focal")
RECORD, PATIENT = "record-of-", "patient-of-"
TEST, POSITIVE = 200, 40
IDS = {arm: f"{place:016x}" for place, arm in enumerate(product(MODALITIES, LOSSES), 1)}
FAILED, PENDING = IDS["text", "focal"], IDS["image", "focal"]
REASON = "out of <b>memory</b>"


class Page(HTMLParser):
    """Every element's name and attributes, the figures with their place, and the visible text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.figures, self.text = [], [], ""
        self.cells = {}
        self._file = self._row = self._open = None
        self._line, self._in_cell = [], False
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "table":
            self._file = attributes.get("data-csv")
        elif tag == "tr":
            self._row = attributes.get("data-row")
            self._line = []
            self.cells.setdefault(self._file, []).append(self._line)
        elif tag in ("td", "th"):
            self._line.append("")
            self._in_cell = True
        if "data-column" in attributes:
            file, row = (attributes.get(f"data-{k}", v) for k, v in self._place().items())
            self._open = [file, row, attributes, ""]
            self.figures.append(self._open)

    def _place(self):
        return {"csv": self._file, "row": self._row}

    def handle_endtag(self, tag):
        if tag in ("td", "span"):
            self._open = None
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        self.text += data
        if self._in_cell:
            self._line[-1] += data
        if self._open is not None:
            self._open[-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def make_study(root, ended=(), seeds=1):
    """Write a storage with a study of six models: one failed and one not trained yet."""
    # every arm again with further seeds, of which all have finished
    ids = [(arm, identity, 0) for arm, identity in IDS.items()]
    ids += [(a, f"{int(i, 16) + 16 * n:016x}", n) for n in range(1, seeds) for a, i in IDS.items()]
    study = {
        "name": "small",
        "title": TITLE,
        "profile": "tiny",
        "grid": "small",
        "axes": {"modality": list(MODALITIES), "dataset": ["full"], "loss": list(LOSSES)},
        "compare": {"modality": "multimodal", "loss": "bce"},
        "source": "phantom",
        "data_key": "d" * 16,
        "cohorts": ["c" * 16],
        "members": [
            {
                "experiment_id": identity,
                "name": f"{modality}-full-{loss}" + f"-seed{seed}" * (seed > 0),
                "modality": modality,
                "dataset": "full",
                "loss": loss,
                "seed": seed,
                "further": {},
            }
            for (modality, loss), identity, seed in ids
        ],
        "left_out": [],
        "version": "0.0",
        "git_commit": None,
        "command": "python launch/sweep.py --grid small",
    }
    write_cohort(root / "prepared" / ("c" * 16))
    for (modality, _), identity, _ in ids:
        if identity not in {FAILED, PENDING, *ended}:
            write_trial(root / "trials" / identity, modality, int(identity, 16))
    failed = dict.fromkeys([FAILED, *ended], {"status": "failed", "reason": REASON})
    folder = root / "studies" / "small"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(study))
    tables = collect_tables(root / "trials", study, failed, QUICK)
    tables.write(folder)
    write_study_tables(folder, root / "trials", study, tables)
    write_study_audit(folder, root / "trials", study, leaky_audit())
    return folder


def leaky_audit():
    """An audit with a grave finding and test texts that occur in training."""
    view = TextView("c" * 16, ("full",), "none")
    leak = Finding("text_probe", "finding", "Words give it away.", 0.987654, 400)
    alike = tuple((f"{RECORD}{place}", "trained") for place in range(TEST, TEST + 60, 3))
    repeats = Finding("identical_texts", "information", "Some.", 20.0, 400, measure="texts")
    width = Finding("shortcut:image width", "information", "No.", 0.5, 400, p_value=0.25)
    return StudyAudit(
        {view.cohort: (width,)},
        {view: TextAudit((leak, repeats), alike)},
        {identity: view for (modality, _), identity in IDS.items() if modality != "image"},
    )


def write_cohort(folder):
    folder.mkdir(parents=True)
    parts = {part: {"n": TEST, "n_positive": POSITIVE} for part in ("train", "val", "test")}
    (folder / "manifest.json").write_text(json.dumps({"patients": 3 * TEST, "parts": parts}))
    step = {"rule": "all images", "unit": "images", "before": 700, "dropped": 0, "after": 700}
    step |= {"positive": None, "negative": None, "note": ""}
    last = {**step, "rule": "view < PA", "dropped": 100, "after": 600, "positive": 120}
    (folder / "selection_flow.json").write_text(json.dumps([step, {**last, "negative": 480}]))
    kappa = {"kappa": 0.7, "low": 0.6, "high": 0.8, "method": "large sample"}
    nothing = {"kappa": None, "low": None, "high": None, "method": "none: one category"}
    agreement = {
        "label": "Pneumonia",
        "rows": "chexpert",
        "columns": "negbio",
        "categories": ["positive", "negative"],
        "counts": [[1234, 5], [6, 7]],
        "without_row": 0,
        "kappa": {"categories": kappa, "positive_or_not": nothing},
    }
    (folder / "label_agreement.json").write_text(json.dumps(agreement))
    (folder / "cohort.csv").write_text(f"record,patient\n{RECORD}1,{PATIENT}1\n")


def write_trial(folder, modality, number):
    """Write a trial whose image tells the classes apart and whose text does not."""
    (folder / "figures").mkdir(parents=True)
    rng = np.random.default_rng(number)
    label = np.tile(np.repeat([1, 0], [POSITIVE, TEST - POSITIVE]), 2).astype(np.int8)
    shared = np.random.default_rng(0).normal(size=len(label))
    image = (3 * label + shared + 0.05 * rng.normal(size=len(label))).astype(np.float32)[:, None]
    text = rng.normal(size=(len(label), 1)).astype(np.float32)
    read = {"multimodal": ("image", "text"), "image": ("image",), "text": ("text",)}[modality]
    weights = np.array([[1.0, 0.01]]) if modality == "multimodal" else np.ones((1, 1))
    features = {"image": image, "text": text}
    logit = np.hstack([features[name] for name in read]).astype(float) @ weights[0] - 2
    write_predictions(
        folder,
        record_id=np.array([f"{RECORD}{place}" for place in range(len(label))]),
        group=np.array([f"{PATIENT}{place}" for place in range(len(label))]),
        part=np.repeat(["val", "test"], TEST),
        in_own=np.ones(len(label), dtype=bool),
        label=label,
        logit=logit,
    )
    head = {"head.linear.weight": weights, "head.linear.bias": np.array([-2.0])}
    np.savez(folder / "features.npz", **{name: features[name] for name in read}, **head)
    write_history(folder, [{"epoch": n, "train_loss": 0.5, "val_loss": 0.6} for n in range(2)])
    result = {"experiment_id": folder.name, "best_epoch": 1, "epochs": 2, "train_seconds": 1.26}
    result |= {"n_train": TEST, "train_accuracy": 0.9, "parameters": 1234}
    (folder / "result.json").write_text(json.dumps({**result, "compute": {"device": "cpu"}}))
    Figure(figsize=(0.1, 0.1)).savefig(folder / "figures" / "roc.png")


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


def test_rebuilding_needs_neither_torch_nor_ray_and_seconds(study_folder):
    code = (
        "import sys; from pathlib import Path; from cxr_ray.report.page import rebuild_page; "
        "rebuild_page(Path(sys.argv[1])); "
        "sys.exit(bool({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)))"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(study_folder)], timeout=60)
    assert done.returncode == 0
    assert time.monotonic() - began < 10


def test_a_folder_that_is_no_study_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"holds no study\.json: give a folder of STORAGE/studies"):
        rebuild_page(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds no leaderboard\.csv: repeat the sweep"):
        rebuild_page(tmp_path)
    (tmp_path / "leaderboard.csv").write_text("")
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(
        InputError, match=r"study\.json is no JSON .*: remove it and repeat the sweep"
    ):
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


class Asked:
    """A study's answer, with what its tables hold changed."""

    def __init__(self, folder):
        self.study = json.loads((folder / "study.json").read_text())
        self.tables = read_tables(folder)
        names = {each["experiment_id"]: each["name"] for each in self.study["members"]}
        rows = self.tables.leaderboard.to_dict("records")
        self.done = [
            {**row, "name": names[row["experiment_id"]]} for row in rows if row["status"] == "done"
        ]
        self.cohorts = [{"manifest": {"patients": 600}}]

    def answer(self):
        return answer(self.study, self.cohorts, self.done, self.tables)


@pytest.fixture
def asked(study_folder):
    return Asked(study_folder)


def test_the_answer_counts_what_separates_and_what_is_used(asked):
    subject, separation, use = asked.answer()
    assert subject.startswith("4 of 6 planned models were trained on made-up phantom data of 600")
    assert "200 test records, 40 of them positive" in subject
    assert "of these trained models, multimodal is above text in 1 of 1" in separation
    assert "no difference is shown between image and multimodal" in separation
    assert "4 of the 7 declared could not be made" in separation
    assert "the image is shown to be used by 0 of 2" in use
    assert "99 permutations are too few to show any use" in use


def test_without_separation_no_choice_is_said_to_be_better(asked):
    asked.tables.comparisons["verdict"] = "not separated"
    separation = asked.answer()[1]
    assert "in none of the 3 declared comparisons do the figures separate" in separation
    assert "above" not in separation
    # seven were declared, and the test set holds 40 positives of 200
    assert "two single models would have to differ by about .16 (at AUROC .80)" in separation


def test_without_a_comparison_no_choice_is_said_to_be_better(asked):
    asked.tables.comparisons["p_holm"] = np.nan
    assert "none of the declared comparisons could be made" in asked.answer()[1]
    asked.tables.comparisons.drop(asked.tables.comparisons.index, inplace=True)
    assert "no two models were compared" in asked.answer()[1]


def test_one_model_has_no_highest_figure(asked):
    asked.done = [row for row in asked.done if row["name"] == "image-full-bce"]
    asked.study["members"] = [
        each for each in asked.study["members"] if each["name"] == "image-full-bce"
    ]
    asked.tables.comparisons.drop(asked.tables.comparisons.index, inplace=True)
    asked.tables.sensitivity.drop(asked.tables.sensitivity.index, inplace=True)
    subject, separation, use = asked.answer()
    assert subject.startswith("1 model was trained")
    assert separation.startswith("The AUROC is")
    assert use == "No model of this study reads both modalities, so that none could be shuffled."


def test_multimodal_models_without_a_shuffle_test_are_not_denied(asked):
    asked.tables.sensitivity.drop(asked.tables.sensitivity.index, inplace=True)
    assert asked.answer()[2] == "Which modality the multimodal models use was not tested."
    asked.done = [row for row in asked.done if row["modality"] != "multimodal"]
    assert asked.answer()[2].startswith("No multimodal model has finished")


def test_several_seeds_are_averaged_and_counted_by_arm(asked):
    first = [row for row in asked.done if row["name"] == "text-full-bce"]
    lucky = [{**row, "seed": 1, "name": f"{row['name']}-seed1", "auroc": 1.0} for row in first]
    lucky += [{**row, "seed": 2, "name": f"{row['name']}-seed2", "auroc": 0.0} for row in first]
    asked.done = [*first, *lucky]
    subject, separation, _ = asked.answer()
    assert "3 of 6 planned models (1 with 3 training seeds each) were" in subject
    assert "(text-full-bce, mean of 3 seeds)" in separation
    assert "is 1.0000" not in separation
    assert "of these trained models" not in separation


def test_patients_of_several_cohorts_are_not_added_up(asked):
    asked.cohorts = [{"manifest": {"patients": count}} for count in (500, 600)]
    asked.done[0] = {**asked.done[0], "test_set": "full", "n": 150}
    subject, separation, _ = asked.answer()
    assert "of 500 to 600 patients in each of 2 cohorts" in subject
    assert "150 to 200 test records" in subject
    assert separation.startswith("The highest AUROC, over test sets that differ,")


def test_the_agreement_of_two_labellers_is_shown_with_the_cohort(page):
    assert "Pneumonia by chexpert (rows) and negbio (columns)" in page.text
    assert "over all four 0.700 [0.600, 0.800]; positive or not none: one category" in page.text
    assert ["positive", "1,234", "5"] in page.cells[None]
