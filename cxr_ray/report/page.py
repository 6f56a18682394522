"""The report of a study: one self-contained HTML file, made from what lies in its folders.

Every figure of a table comes from a CSV beside the page: the table names the file in ``data-csv``,
the line its row in ``data-row``, the cell its column and full value.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from cxr_ray.config.identity import EVALUATION_VERSION, TRAINING_VERSION
from cxr_ray.damage import TABLE, read_json
from cxr_ray.data.label_agreement import format_kappa
from cxr_ray.errors import InputError
from cxr_ray.evaluation.figures import COLOURS, comparison_figure
from cxr_ray.evaluation.panels import panels
from cxr_ray.report.answer import answer
from cxr_ray.report.calibration_section import calibration_section
from cxr_ray.report.checklist import write_checklist
from cxr_ray.report.cohort_section import group_by_unit, read_cohorts
from cxr_ray.report.comparisons import PRIMARY
from cxr_ray.report.embedding import embed_figure, embed_png
from cxr_ray.report.explanation_picture import OWNER_ONLY
from cxr_ray.report.external_section import external_section, external_table
from cxr_ray.report.leaderboard import LEADERBOARD_FILE, StudyTables, read_tables
from cxr_ray.report.page_files import PAGE_FILE, SHARED_FOLDER
from cxr_ray.report.paper_tables import describe_means, paper_tables
from cxr_ray.report.saliency_section import read_saliency, saliency_section, without_records
from cxr_ray.report.search_page import search_answer, search_content
from cxr_ray.report.seed_summary import seed_section
from cxr_ray.report.shown_use import describe_use
from cxr_ray.report.study_audit import audit_section, leak_clause, read_audit
from cxr_ray.report.study_tables import compare_arms
from cxr_ray.report.subgroup_section import subgroup_section
from cxr_ray.report.templates import is_missing, open_templates
from cxr_ray.report.trial_folder import (
    PREDICTIONS_FILE,
    RESULT_FILE,
    read_history,
    read_result,
)
from cxr_ray.storage import Storage, write_whole

STUDY_FILE = "study.json"
TRIAL_FIGURES = {
    "roc": "ROC curve",
    "precision_recall": "precision-recall curve",
    "reliability": "reliability curve",
    "confusion": "confusion matrix",
}
LEADERBOARD_METRICS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "brier": "Brier",
}
CONTRIBUTIONS = {
    "shapley": (
        "Shapley value of AUROC: what this model's AUROC has above .5, shared between the two "
        "modalities by shuffling them; it is use by this model, not information in the data."
    ),
    "conditional_utilization": (
        "Conditional utilization rate: the share of the score that is lost when the modality's "
        "feature is replaced by its training mean, the model not fitted again; it is no measure "
        "of what a model trained without the modality would reach."
    ),
    "refitted_probe": (
        "Refitted probe: the AUROC of a logistic regression fitted on the training part's features "
        "of one modality, and of both; it says what is linearly readable in them, which the model "
        "itself may ignore, and nothing of what this encoder has not kept."
    ),
    "variance_share": (
        "Variance share: how much of the logit's variance each modality's part makes, and twice "
        "their covariance; a part may vary without being of any use."
    ),
    "covariance_share": (
        "Covariance share: the same, the covariance divided between the two; it says which part "
        "moves the logit, not which one is right."
    ),
}
WITHIN_CLASS = "_within_class"
PACKAGES = ("torch", "torchvision", "transformers", "ray", "mlflow", "numpy", "pandas")


def rebuild_page(folder: Path) -> Path:
    """Write the page of a study again, from what lies in its storage.

    Parameters
    ----------
    folder
        The study's folder, in ``studies/`` of its storage.

    Raises
    ------
    InputError
        If the folder is no study's, or is one without tables.
    """
    if not (folder / STUDY_FILE).is_file():
        raise InputError(f"{folder} holds no {STUDY_FILE}: give a folder of STORAGE/studies")
    if not (folder / LEADERBOARD_FILE).is_file():
        raise InputError(
            f"{folder} holds no {LEADERBOARD_FILE}: repeat the sweep's command, which writes it"
        )
    study = read_json(folder / STUDY_FILE, f"remove it and {TABLE}")
    storage = Storage(folder.absolute().parent.parent)
    return write_page(storage, folder, study, read_tables(folder))


def write_page(
    storage: Storage, folder: Path, study: Mapping[str, Any], tables: StudyTables
) -> Path:
    """Write the page of a study from its tables and trial folders, and the checklist beside it.

    Parameters
    ----------
    storage
        Its trials and its cohorts' counts are read; records are named by their salted hashes.
        With ``report.show_records`` some are shown, and `SHARED_FOLDER` has a copy without them.
    folder
        The study's folder, in which the page is written.
    study
        The content of ``study.json``.
    tables
        As they lie in the study's folder.
    """
    environment = open_templates("cxr_ray.report")
    environment.filters["full"] = _full
    environment.filters["by_unit"] = group_by_unit
    environment.filters["metric"] = _name_metric
    environment.filters["kappa"] = format_kappa
    template = environment.get_template("page.html.j2")
    content = _content(storage, study, tables, *read_audit(folder))
    page = template.render(**content)
    if study.get("report", {}).get("show_records"):
        write_whole(folder / PAGE_FILE, page, mode=OWNER_ONLY)
        page = template.render(
            **content | {"saliency": without_records(content["saliency"], storage)}
        )
        (folder / SHARED_FOLDER).mkdir(exist_ok=True)
        write_whole(folder / SHARED_FOLDER / PAGE_FILE, page)
    else:
        write_whole(folder / PAGE_FILE, page)
    write_checklist(folder, study, page)
    return folder / PAGE_FILE


def _full(value: Any) -> str:
    """Write a figure as its CSV holds it."""
    return "" if is_missing(value) else str(value)


def _name_metric(name: str) -> str:
    plain, at, point = name.partition("_at_")
    return (LEADERBOARD_METRICS.get(plain, plain) + at + point).replace("_", " ")


def _content(
    storage: Storage,
    study: Mapping[str, Any],
    tables: StudyTables,
    found: pd.DataFrame,
    rescored: pd.DataFrame,
) -> dict[str, Any]:
    members = study["members"]
    search = search_content(storage.studies / study["name"], study)
    names = {member["experiment_id"]: member["name"] for member in members}
    external = external_section(storage, _rows(external_table(tables.leaderboard), names))
    tables = tables.internal()
    leaderboard = _rows(tables.leaderboard, names)
    scored = [row for row in leaderboard if not is_missing(row["test_set"])]
    done = [row for row in scored if row["status"] == "done"]
    listed = {row["experiment_id"] for row in leaderboard}
    trials = list(_trials(storage, done))
    kept = [trial["id"] for trial in trials]
    cohorts = list(read_cohorts(storage, study))
    predicted = [
        member
        for member in members
        if (storage.trials / member["experiment_id"] / PREDICTIONS_FILE).exists()
    ]
    tested = tables.leaderboard[tables.leaderboard["test_set"].notna()]
    separates = compare_arms(storage.trials, predicted, tested)
    papers = paper_tables(tables.leaderboard, tables.sensitivity, separates=separates)
    comparisons = _rows(tables.comparisons, names)
    for row in comparisons:
        row["said"] = _name_levels(row)
    sensitivity = _rows(tables.sensitivity, names)
    contribution = _rows(tables.contribution, names)
    seeds = seed_section(tables.summary)
    calibrated = calibration_section(storage, done, tables.net_benefit)
    if calibrated is not None:
        calibrated |= {name: embed_figure(calibrated[name]) for name in ("reliability", "decision")}
    measures = {row["measure"].removesuffix(WITHIN_CLASS) for row in contribution}
    return {
        "study": study,
        "answer": search_answer(study, leak_clause(found))
        if search
        else answer(study, cohorts, done, tables, leak_clause(found)),
        "search": search,
        "saliency": saliency_section(
            storage,
            _rows(read_saliency(storage.studies / study["name"]), names),
            show_records=study.get("report", {}).get("show_records", False),
        ),
        "done": _merge_equal(done),
        "ended": [row for row in leaderboard if row["status"] != "done" and not search],
        "pending": [name for identity, name in names.items() if identity not in listed],
        "metrics": LEADERBOARD_METRICS,
        "means": describe_means(tables.leaderboard),
        "seeds": seeds,
        "forest": embed_figure(_forest(done, seeds)),
        "papers": papers.tables,
        "sensitivity": [row for row in sensitivity if row["metric"] == "auroc"],
        "further_sensitivity": [row for row in sensitivity if row["metric"] != "auroc"],
        "uses": describe_use(sensitivity),
        "shuffles": embed_figure(_shuffles(tables.sensitivity, names)),
        "contribution": contribution,
        "measures": [said for name, said in CONTRIBUTIONS.items() if name in measures],
        "external": external,
        "primary": [row for row in comparisons if row["family"] == PRIMARY],
        "exploratory": [row for row in comparisons if row["family"] != PRIMARY],
        "subgroups": subgroup_section(tables.subgroups, names),
        "trials": trials,
        "calibrated": calibrated,
        "figures": TRIAL_FIGURES,
        "curves": embed_figure(_learning_curves(storage, kept, names)),
        "cohorts": cohorts,
        "audit": audit_section(found, rescored, names),
        "command": study["command"],
        "versions": dict(_versions()),
        "training_version": TRAINING_VERSION,
        "evaluation_version": EVALUATION_VERSION,
        "rebuild": "python launch/report.py " + shlex.quote(f"STORAGE/studies/{study['name']}"),
    }


def _rows(table: pd.DataFrame, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """List a table's rows, each with its place in the CSV and its trial's name."""
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in table.to_dict("records")
    ]
    for place, row in enumerate(rows):
        row["place"] = place
        if "experiment_id" in row:
            row["name"] = names.get(row["experiment_id"], row["experiment_id"])
    return rows


def _merge_equal(done: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Show a model once where its own test set is the full one."""
    shown = ("experiment_id", "n", "n_positive", *LEADERBOARD_METRICS)
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in done:
        key = tuple(str(row[name]) for name in shown)
        merged[key] = {**row, "test_set": "both"} if key in merged else dict(row)
    return list(merged.values())


def _name_levels(row: Mapping[str, Any]) -> str:
    """Write a verdict with the level's name in the place of ``a`` or ``b``."""
    sides = {"a higher": "level_a", "b higher": "level_b"}
    verdict = str(row["verdict"])
    if verdict in sides:
        return f"{row[sides[verdict]]} higher"
    reason = str(row["method"])
    return f"{verdict}: {reason.removeprefix('none: ')}" if reason.startswith("none: ") else verdict


def _trials(storage: Storage, done: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Read how each finished trial was trained, where its folder is still there."""
    for row in done:
        folder = storage.trials / row["experiment_id"]
        if row["test_set"] != "full" or not (folder / RESULT_FILE).exists():
            continue
        result = read_result(folder)
        pictures = {
            figure: embed_png((folder / "figures" / f"{figure}.png").read_bytes())
            for figure in TRIAL_FIGURES
            if (folder / "figures" / f"{figure}.png").exists()
        }
        samples = result["n_train"] * result["epochs"] * len(result.get("fits", (None,)))
        yield {
            "name": row["name"],
            "id": row["experiment_id"],
            "place": row["place"],
            "row": row,
            "result": result,
            "pictures": pictures,
            "samples_per_second": samples / max(result["train_seconds"], 1e-9),
        }


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _forest(done: Sequence[Mapping[str, Any]], seeds: Mapping[str, Any] | None) -> Figure | None:
    full = pd.DataFrame([row for row in done if row["test_set"] == "full"])
    return None if full.empty else comparison_figure(seeds["forest"] if seeds else full)


def _shuffles(sensitivity: pd.DataFrame, names: Mapping[str, str]) -> Figure | None:
    """Draw what shuffling each modality takes from AUROC, with its interval."""
    rows = sensitivity[
        (sensitivity["metric"] == "auroc")
        & sensitivity["perturbation"].isin(["image_shuffled", "text_shuffled"])
    ]
    if rows.empty:
        return None
    identities = list(dict.fromkeys(rows["experiment_id"]))
    figure = Figure(figsize=(8.6, 1.4 + 0.5 * len(identities)), layout="constrained")
    axes = figure.subplots()
    for number, perturbation in enumerate(("image_shuffled", "text_shuffled")):
        chosen = rows[rows["perturbation"] == perturbation]
        places = [identities.index(i) + 0.16 * (2 * number - 1) for i in chosen["experiment_id"]]
        axes.errorbar(
            chosen["drop"],
            places,
            xerr=[
                (chosen["drop"] - chosen["low"]).clip(lower=0),
                (chosen["high"] - chosen["drop"]).clip(lower=0),
            ],
            fmt="os"[number],
            color=COLOURS[number],
            label=perturbation.replace("_", " "),
        )
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(range(len(identities)), [names[i] for i in identities])
    axes.set_ylim(len(identities) - 0.5, -0.5)
    axes.set_xlabel("Drop of AUROC, full test set, 95 % interval")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _learning_curves(
    storage: Storage, identities: Sequence[str], names: Mapping[str, str]
) -> Figure | None:
    """Draw training and validation loss by epoch, a panel a trial."""
    if not identities:
        return None
    figure, drawn = panels([names[each] for each in identities], shared=False)
    for panel, identity in zip(drawn, identities, strict=True):
        history = read_history(storage.trials / identity)
        epochs = [row["epoch"] for row in history]
        for key, style in (("train_loss", "--"), ("val_loss", "-")):
            panel.plot(epochs, [row[key] for row in history], style, color=COLOURS[0])
        panel.axvline(
            read_result(storage.trials / identity)["best_epoch"], color="0.6", linewidth=1
        )
    return figure
