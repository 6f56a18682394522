"""The model card of an exported model: what a result says of it, and no record of a patient."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.prepared import fetch_cohort, read_flow, read_manifest
from cxr_ray.export.onnx_graph import OnnxCheck
from cxr_ray.report.external import external_folders, read_external, score_external
from cxr_ray.report.result_table import MISSING, format_share
from cxr_ray.report.scoring import score_folder
from cxr_ray.report.shown_use import ShownUse, describe_use
from cxr_ray.report.templates import open_templates
from cxr_ray.report.trial_folder import read_result
from cxr_ray.storage import Storage
from cxr_ray.training.trained_model import without_paths

LICENCES = {
    "phantom": "none; the data are generated.",
    "mimic": (
        "PhysioNet Credentialed Health Data License. A model trained on MIMIC is to be treated as "
        "sensitive and shared, if at all, on PhysioNet under the agreement of its source."
    ),
    "openi": "CC BY-NC-ND 4.0, of the Indiana University collection (Demner-Fushman et al. 2016).",
}
UNKNOWN_LICENCE = "not known to this software: say under which terms the data were had."
FREE = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "sensitivity_at_95_specificity": "sensitivity at 95 % specificity",
    "brier": "Brier",
    "brier_recalibrated": "Brier, recalibrated",
    "ece": "ECE",
    "ece_recalibrated": "ECE, recalibrated",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
    "calibration_in_the_large": "calibration in the large",
}
CALLED = {
    "recall": "sensitivity (recall)",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "mcc": "MCC",
}
POINTS = {
    "": "default",
    "_at_val": "highest F1",
    "_at_youden": "Youden",
    "_at_spec95": "95 % specificity",
}
PACKAGES = ("cxr_ray", "torch", "torchvision", "transformers", "tokenizers", "mlflow", "onnx")


def write_card(
    storage: Storage,
    trial: Path,
    config: ExperimentConfig,
    path: Path,
    *,
    onnx: OnnxCheck | None,
    onnx_part: str | None,
    tokenizer_warning: str | None,
) -> None:
    """Write the model card of a finished trial, scoring it where that was not done.

    Parameters
    ----------
    trial
        Its folder; names of records in it are not read.
    config
        The trial's.
    onnx, onnx_part
        How the graph was checked and on which part, if there is one.
    tokenizer_warning
        A sentence, where the tokenizer's vocabulary is report text.
    """
    environment = open_templates("cxr_ray.export")
    environment.filters["cell"] = _cell
    environment.filters["figure"] = _figure
    content = _content(storage, trial, without_paths(config))
    card = environment.get_template("card.md.j2").render(
        onnx=onnx, onnx_part=onnx_part, tokenizer_warning=tokenizer_warning, **content
    )
    path.write_text(f"{card}\n")


def _content(storage: Storage, trial: Path, config: ExperimentConfig) -> dict[str, Any]:
    result = read_result(trial)
    scores = score_folder(trial, config.evaluation)
    figures = scores["test_sets"].get("full", {})
    sensitivity = [row for row in scores["sensitivity"] if row["metric"] == "auroc"]
    external = [
        {
            "name": test.name,
            "source": read_external(test)["source"],
            "figures": score_external(test, config.evaluation)["figures"],
        }
        for test in external_folders(trial)
    ]
    cohort = result["keys"]["cohort"]
    manifest, flow, source = None, [], None
    if fetch_cohort(storage, cohort):
        manifest, flow = read_manifest(storage, cohort), read_flow(storage, cohort)
        source = manifest["source"]
    reads, label = config.fusion.modalities, config.cohort.label
    scratch = config.text.encoder == "scratch"
    inputs = {"image": ["`image`"], "text": ["`tokens`", "`attention`"]}
    points = [
        {
            "suffix": suffix,
            "said": said,
            "value": format_share(figures[f"threshold{suffix}"] if suffix else 0.5),
        }
        for suffix, said in POINTS.items()
        if figures
    ]
    what = (
        "an image and its report"
        if len(reads) > 1
        else {"image": "an image", "text": "a report"}[reads[0]]
    )
    return {
        "title": f"{label} from {what}".replace("\n", " "),
        "summary": f"A classifier that reads {what} and gives the probability of {label.lower()}, "
        "trained and tested by cxr_ray.",
        "label": label,
        "config": config,
        "reads_text": "text" in reads,
        "text_encoder": "a small BERT from random weights" if scratch else config.text.encoder,
        "onnx_inputs": ", ".join(name for modality in reads for name in inputs[modality]),
        "result": result,
        "manifest": manifest,
        "flow": flow,
        "table": source == "table",
        "synthetic": source == "phantom",
        "licence": LICENCES.get(str(source), UNKNOWN_LICENCE),
        "figures": figures,
        "free": {name: said for name, said in FREE.items() if name in figures},
        "called": CALLED,
        "points": points,
        "external": external,
        "sensitivity": sensitivity,
        "use": _said_of_use(sensitivity),
        "versions": dict(_versions(result)),
    }


def _said_of_use(sensitivity: list[dict[str, Any]]) -> dict[str, str] | None:
    described = describe_use([{**row, "name": "this model"} for row in sensitivity])
    return {"sentence": _sentence(described[0])} if described else None


def _sentence(use: ShownUse) -> str:
    def drops(tests: Any) -> str:
        return " and ".join(
            f"the {test.modality} (AUROC falls by {format_share(test.row['drop'])} when it is "
            "shuffled)"
            for test in tests
        )

    said = []
    if use.shown:
        said.append(f"It is shown to use {drops(use.shown)}")
    if use.silent:
        said.append(f"{'it' if said else 'It'} is not shown to use {drops(use.silent)}")
    return f"{'; '.join(said)}{use.caveat}."


def _versions(result: Mapping[str, Any]) -> Any:
    trained = result["versions"]
    yield "trained with", f"cxr_ray {trained['cxr_ray']}, torch {trained['torch']}"
    yield "commit", trained["git_commit"] or "unknown"
    yield "device", result["compute"]["device"]
    exported = []
    for package in PACKAGES:
        try:
            exported.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    yield "exported with", ", ".join(exported)


def _figure(figures: Mapping[str, Any], name: str) -> str:
    """Write a figure with its interval."""
    text = format_share(figures.get(name))
    low, high = (format_share(figures.get(f"{name}_{side}")) for side in ("low", "high"))
    return text if MISSING in (text, low, high) else f"{text} [{low}, {high}]"


def _cell(value: object) -> str:
    """Keep a value in its cell: no line break, and no bar that would end it."""
    return " ".join(str(value).split()).replace("|", "/").replace("`", "'")
