"""The report of a study: one self-contained HTML file, made from what lies in its folders.

Every number comes from a CSV beside the page and carries its full value in ``data-value``.
"""

import base64
import io
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from cxr_ray.config.identity import EVALUATION_VERSION, TRAINING_VERSION
from cxr_ray.evaluation.figures import COLOURS
from cxr_ray.report.answer import answer
from cxr_ray.report.leaderboard import StudyTables
from cxr_ray.report.paper_tables import paper_tables
from cxr_ray.report.result_table import format_share
from cxr_ray.report.trial_folder import read_history, read_result
from cxr_ray.storage import Storage, write_whole

PAGE_FILE = "report.html"
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
PACKAGES = ("torch", "torchvision", "transformers", "ray", "mlflow", "numpy", "pandas")


def write_page(
    storage: Storage, folder: Path, study: Mapping[str, Any], tables: StudyTables
) -> Path:
    """Write the page of a study from its tables and trial folders.

    Parameters
    ----------
    storage
        Its trials and its cohorts' counts are read; no record is.
    folder
        The study's folder, in which the page is written.
    study
        The content of ``study.json``.
    """
    # autoescape: a name, level or title is text, whatever it holds
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = format_share
    template = environment.from_string(
        (resources.files("cxr_ray.report") / "page.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(**_content(storage, study, tables))
    write_whole(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def _content(storage: Storage, study: Mapping[str, Any], tables: StudyTables) -> dict[str, Any]:
    names = {member["experiment_id"]: member["name"] for member in study["members"]}
    leaderboard = _rows(tables.leaderboard, names)
    done = [row for row in leaderboard if row["status"] == "done"]
    trained = list(dict.fromkeys(row["experiment_id"] for row in done))
    cohorts = list(_cohorts(storage, study))
    papers = paper_tables(tables.leaderboard, tables.sensitivity).tables
    return {
        "study": study,
        "answer": answer(study, cohorts, done, tables),
        "done": done,
        "ended": [row for row in leaderboard if row["status"] != "done"],
        "metrics": LEADERBOARD_METRICS,
        "forest": _picture(_forest(done)) if done else None,
        "papers": papers,
        "sensitivity": _rows(tables.sensitivity, names),
        "shuffles": _picture(_shuffles(tables.sensitivity, names)),
        "comparisons": _rows(tables.comparisons, names),
        "trials": [_trial(storage, identity, names[identity]) for identity in trained],
        "figures": TRIAL_FIGURES,
        "curves": _picture(_learning_curves(storage, trained, names)) if trained else None,
        "cohorts": cohorts,
        "command": study["command"],
        "versions": dict(_versions()),
        "training_version": TRAINING_VERSION,
        "evaluation_version": EVALUATION_VERSION,
        "rebuild": "python launch/report.py " + shlex.quote(f"STORAGE/studies/{study['name']}"),
    }


def _rows(table: pd.DataFrame, names: Mapping[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in table.to_dict("records")
    ]
    for row in rows:
        if "experiment_id" in row:
            row["name"] = names[row["experiment_id"]]
    return rows


def _cohorts(storage: Storage, study: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Read the counts of each cohort: its selection flow and its parts."""
    for key in study["cohorts"]:
        folder = storage.prepared / key
        if (folder / "manifest.json").exists():
            yield {
                "key": key,
                "manifest": json.loads((folder / "manifest.json").read_text()),
                "flow": json.loads((folder / "selection_flow.json").read_text()),
            }


def _trial(storage: Storage, identity: str, name: str) -> dict[str, Any]:
    folder = storage.trials / identity
    result = read_result(folder)
    pictures = {
        figure: _embed((folder / "figures" / f"{figure}.png").read_bytes())
        for figure in TRIAL_FIGURES
        if (folder / "figures" / f"{figure}.png").exists()
    }
    samples = result["n_train"] * result["epochs"]
    return {
        "name": name,
        "id": identity,
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


def _forest(done: Sequence[Mapping[str, Any]]) -> Figure:
    from cxr_ray.evaluation.figures import comparison_figure

    return comparison_figure(pd.DataFrame([row for row in done if row["test_set"] == "full"]))


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
    axes.set_xlabel("Drop of AUROC on the full test set, 95 % interval")
    axes.legend(frameon=False)
    return figure


def _learning_curves(
    storage: Storage, identities: Sequence[str], names: Mapping[str, str]
) -> Figure:
    """Draw training and validation loss by epoch, a panel a trial."""
    columns = 4 if len(identities) > 3 else len(identities)
    lines = -(-len(identities) // columns)
    figure = Figure(figsize=(2.6 * columns, 1.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel in panels[len(identities) :]:
        panel.set_axis_off()
    for panel, identity in zip(panels, identities, strict=False):
        history = read_history(storage.trials / identity)
        epochs = [row["epoch"] for row in history]
        for key, style in (("train_loss", "--"), ("val_loss", "-")):
            panel.plot(epochs, [row[key] for row in history], style, color=COLOURS[0])
        panel.axvline(
            read_result(storage.trials / identity)["best_epoch"], color="0.6", linewidth=1
        )
        panel.set_title(names[identity], fontsize=8)
        panel.tick_params(labelsize=7)
    return figure


def _picture(figure: Figure | None) -> str | None:
    if figure is None:
        return None
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, bbox_inches="tight")
    return _embed(content.getvalue())


def _embed(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
