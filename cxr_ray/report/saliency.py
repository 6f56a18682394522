"""Which records of a study are explained, and what is kept of it: numbers, no word and no pixel.

``saliency.npz`` lies in the trial's folder, ``saliency.csv`` in the study's.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cxr_ray.damage import Stored, named_if_damaged
from cxr_ray.evaluation.ranking import average_precision
from cxr_ray.evaluation.thresholds import f1_operating_point
from cxr_ray.report.explanation import Explanation, WordAttribution
from cxr_ray.report.explanation_picture import OWNER_ONLY
from cxr_ray.report.trial_folder import Predictions, has_test, read_predictions, read_result
from cxr_ray.storage import write_whole

SALIENCY_VERSION = 1
ARRAYS_FILE = "saliency.npz"
TABLE_FILE = "saliency.csv"
EXPLAINED = "remove it, and the sweep's command explains again"
PER_KIND = 2
# Label and call, as the page orders them.
KINDS = {
    "right_positive": (1, True),
    "right_negative": (0, False),
    "wrong_positive": (0, True),
    "wrong_negative": (1, False),
}
THIRDS = ("upper", "middle", "lower")
SECTIONS = ("findings", "impression", "indication", "history", "other")
FIGURES = (
    *("label", "probability", "probability_recalibrated", "threshold_at_val"),
    *("image_contribution", "text_contribution"),
)


@dataclass(frozen=True)
class ExplainedRecord:
    """A test record by its salted name, why it was chosen, and what moved the answer."""

    record_id: str
    kind: str
    explanation: Explanation


def choose_model(trials: Path, identities: Iterable[str]) -> str | None:
    """Choose the model of highest average precision on the full validation part.

    It is what searches rank by, and no look at the test part. The first of equal ones.

    Parameters
    ----------
    identities
        Finished multimodal trials; those that are cross-validated, or have no predictions of the
        test part, are passed over.
    """
    best, best_figure = None, -1.0
    for identity in identities:
        folder = trials / identity
        if "fits" in read_result(folder) or not has_test(folder):
            continue
        predictions = read_predictions(folder)
        rows = predictions.rows("val", "full")
        figure = average_precision(predictions.label[rows], predictions.logit[rows])
        if figure > best_figure:
            best, best_figure = identity, figure
    return best


def choose_records(predictions: Predictions) -> list[tuple[str, int]]:
    """Choose two records of the full test part for each of right and wrong, positive and negative.

    They are the most confident ones: of those called positive at the threshold of highest F1 on
    validation the ones of highest logit, of those called negative of lowest; the first of equal
    ones in the cohort's order.

    Returns
    -------
    Kind and place in the predictions; fewer than eight where there are not as many.
    """
    validation = predictions.rows("val", "full")
    threshold = f1_operating_point(
        predictions.label[validation], predictions.logit[validation]
    ).threshold
    called = predictions.logit >= threshold
    chosen = []
    for kind, (label, positive) in KINDS.items():
        alike = predictions.rows("test", "full") & (predictions.label == label)
        places = np.flatnonzero(alike & (called == positive))
        confidence = predictions.logit[places] * (1 if positive else -1)
        order = np.argsort(-confidence, kind="stable")[:PER_KIND]
        chosen += [(kind, int(place)) for place in places[order]]
    return chosen


def chosen_records(predictions: Predictions) -> list[tuple[str, str]]:
    """Name the chosen records: kind and salted hash of each; see `choose_records`."""
    return [(kind, str(predictions.record_id[i])) for kind, i in choose_records(predictions)]


def write_arrays(trial: Path, records: Sequence[ExplainedRecord]) -> None:
    """Keep what moved the answers: heat maps, and attributions by token and by word.

    Of the words only their places in the text are kept.
    """
    arrays: dict[str, Any] = {
        "version": SALIENCY_VERSION,
        "record_id": np.array([each.record_id for each in records], dtype=str),
        "kind": np.array([each.kind for each in records], dtype=str),
    }
    for name in FIGURES:
        arrays[name] = np.array([each.explanation.answer[name] for each in records], float)
    for place, each in enumerate(records):
        words = each.explanation.words
        if each.explanation.heat is not None:
            arrays[f"{place}.heat"] = each.explanation.heat
        if words is not None:
            for name in WordAttribution.__dataclass_fields__:
                arrays[f"{place}.{name}"] = getattr(words, name)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_whole(trial / ARRAYS_FILE, content.getvalue(), mode=OWNER_ONLY)


def read_arrays(trial: Path) -> list[ExplainedRecord] | None:
    """Read what `write_arrays` kept, or None where there is nothing, or of another version."""
    if not (trial / ARRAYS_FILE).exists():
        return None
    path = trial / ARRAYS_FILE
    with named_if_damaged(path, EXPLAINED), np.load(path, allow_pickle=False) as file:
        arrays = Stored(dict(file), path, EXPLAINED)
    if arrays["version"] != SALIENCY_VERSION:
        return None
    records = []
    for place, name in enumerate(arrays["record_id"]):
        answer = {figure: float(arrays[figure][place]) for figure in FIGURES}
        fields = {
            field: arrays[f"{place}.{field}"]
            for field in WordAttribution.__dataclass_fields__
            if f"{place}.{field}" in arrays
        }
        words = WordAttribution(**{**fields, "gap": float(fields["gap"])}) if fields else None
        explanation = Explanation(answer, heat=arrays.get(f"{place}.heat"), words=words)
        records.append(ExplainedRecord(str(name), str(arrays["kind"][place]), explanation))
    return records


def saliency_table(identity: str, records: Sequence[ExplainedRecord]) -> pd.DataFrame:
    """Sum attributions over thirds of the image and sections of the report, a row a record.

    Returns
    -------
    DataFrame
        ``experiment_id, record_id, kind``, the answer's figures, ``image_upper`` to
        ``image_lower``, ``text_findings`` to ``text_other``, in units of the logit; a section that
        the record lacks is missing.
    """
    rows = []
    for each in records:
        found = each.explanation
        row: dict[str, Any] = {
            "experiment_id": identity,
            "record_id": each.record_id,
            "kind": each.kind,
            **found.answer,
        }
        thirds = [np.nan] * 3 if found.heat is None else sum_thirds(found.heat)
        row |= {f"image_{name}": value for name, value in zip(THIRDS, thirds, strict=True)}
        row |= {f"text_{name}": np.nan for name in SECTIONS}
        if found.words is not None:
            named = np.where(np.isin(found.words.sections, SECTIONS), found.words.sections, "other")
            for name in np.unique(named):
                row[f"text_{name}"] = float(found.words.words[named == name].sum())
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype({"label": int})


def sum_thirds(heat: NDArray[np.floating]) -> list[float]:
    """Add up a heat map over the upper, middle and lower third of the image.

    Examples
    --------
    >>> [round(value, 6) for value in sum_thirds(np.ones((2, 2)))]
    [1.333333, 1.333333, 1.333333]
    """
    side = 96
    grown = np.asarray(
        Image.fromarray(heat.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR),
        np.float64,
    )
    return [float(part.sum() * heat.size / grown.size) for part in np.split(grown, 3)]
