"""The paper's three tables with our figures beside the printed ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from cxr_ray.report.reference import (
    PRINTED_METRICS,
    PRINTED_TEST_SIZE,
    PrintedRow,
    printed_rows,
)
from cxr_ray.report.result_table import MARK, MISSING, ResultTable, format_share

Arm = tuple[str, str, str]
"""(modality, dataset, loss) of a model, whatever its seed."""

Separates = Callable[[Arm, Arm], bool | None] | Mapping[tuple[Arm, Arm], bool]
"""Whether two arms' AUROCs differ after correction; None or no entry: they were not compared."""

SHORT = {"accuracy": "acc", "precision": "prec", "recall": "rec", "f1": "F1", "auroc": "AUROC"}
MODALITIES = ("multimodal", "image", "text")
LABEL_RECOVERY = (
    "The paper's labels were read from the same reports: its text AUROCs near 1 are recovery of "
    "the label, not diagnosis."
)


@dataclass(frozen=True)
class PaperTables:
    """What could be set beside the paper, and what could not.

    Attributes
    ----------
    tables : tuple of ResultTable
    left_out : dict of str to str
        Title of each table that was left out, and the reason.
    """

    tables: tuple[ResultTable, ...]
    left_out: dict[str, str]


@dataclass(frozen=True)
class _Layout:
    title: str
    dataset: str
    losses: tuple[str, ...]
    shuffled: bool = False

    def contains(self, row: PrintedRow) -> bool:
        own = row.dataset == self.dataset and row.loss in self.losses
        return own and (self.shuffled or not row.perturbation)


LAYOUTS = (
    _Layout("Figure 2: modalities, full data set, BCE", "full", ("bce",), shuffled=True),
    _Layout("Figure 3: losses, full data set", "full", ("bce", "focal")),
    _Layout("Figure 4: losses, data set sub-sampled to 75 : 25", "sub75", ("bce", "focal")),
)


def paper_tables(
    leaderboard: pd.DataFrame,
    sensitivity: pd.DataFrame | None = None,
    *,
    separates: Separates | None = None,
) -> PaperTables:
    """Set our figures beside the printed ones.

    Parameters
    ----------
    leaderboard : DataFrame
        One row a trial and test set: ``modality, dataset, loss, seed, test_set, n, n_positive`` and
        the five metrics; rows of the own test set are used, and where there is a ``status`` only
        those that are ``done``. Several seeds are averaged.
    sensitivity : DataFrame, optional
        ``modality, dataset, loss, seed, test_set, perturbation, metric, perturbed``; rows of the
        full test set are used.
    separates : callable or mapping, optional
        Whether the AUROCs of two arms differ after Holm's correction. The highest AUROC has a mark
        only if it separates from the runner-up; no other figure has one.

    Returns
    -------
    PaperTables
        A table of which the study holds no arm, or more than one model for an arm (a further
        axis), is left out with the reason.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    _need(leaderboard, "leaderboard", "modality dataset loss seed test_set n n_positive".split())
    _need(leaderboard, "leaderboard", PRINTED_METRICS)
    own = leaderboard[(leaderboard["test_set"] == "own") & _is_done(leaderboard)]
    shuffled = pd.DataFrame()
    if sensitivity is not None and not sensitivity.empty:
        _need(sensitivity, "sensitivity", "modality dataset loss test_set perturbation".split())
        _need(sensitivity, "sensitivity", ("metric", "perturbed"))
        shuffled = sensitivity[sensitivity["test_set"] == "full"]
    tables, left_out = [], {}
    for layout in LAYOUTS:
        reason = _reason_to_leave_out(layout, own)
        if reason:
            left_out[layout.title] = reason
        else:
            tables.append(_paper_table(layout, own, shuffled, separates))
    return PaperTables(tuple(tables), left_out)


def leaderboard_table(leaderboard: pd.DataFrame) -> ResultTable:
    """Lay out a leaderboard for printing: a line a trial and test set, one where both are equal.

    Parameters
    ----------
    leaderboard : DataFrame
        As in `paper_tables`, with ``average_precision`` and, where there are, ``auroc_low``,
        ``auroc_high``, ``name``, ``status`` and ``reason``. Columns after ``reason`` are further
        axes of the grid and enter the name.

    Returns
    -------
    ResultTable
        Trials that did not end well are named in the caption, with their reason.
    """
    _need(leaderboard, "leaderboard", "modality dataset loss seed test_set n n_positive".split())
    _need(leaderboard, "leaderboard", PRINTED_METRICS)
    rows, ended = [], describe_ended(leaderboard)
    figures = ["experiment_id", "n", "n_positive", *PRINTED_METRICS]
    equal = leaderboard.duplicated(figures, keep=False) & _is_done(leaderboard)
    leaderboard = leaderboard.assign(test_set=leaderboard["test_set"].mask(equal, "both"))
    leaderboard = leaderboard[~(equal & leaderboard.duplicated(figures))]
    names = _trial_names(leaderboard).tolist()
    done = _is_done(leaderboard).tolist()
    for name, ok, row in zip(names, done, leaderboard.to_dict("records"), strict=True):
        if not ok:
            continue
        area = format_share(row["auroc"])
        low, high = (format_share(row.get(f"auroc_{side}")) for side in ("low", "high"))
        if MISSING not in (low, high):
            area += f" [{low}-{high}]"
        rows.append(
            (
                name,
                str(row["test_set"]),
                f"{int(row['n'])}",
                f"{int(row['n_positive'])}",
                *(format_share(row[metric]) for metric in PRINTED_METRICS if metric != "auroc"),
                area,
                format_share(row.get("average_precision")),
            )
        )
    sentences = [
        "Figures at threshold .5, AUROC with its 95 % interval, AP average precision. Test set "
        "own: the model's own, sub-sampled like its training part; full: all test records, on "
        "which models of every class ratio are compared; both: they are the same."
    ]
    sentences += describe_means(leaderboard)
    return ResultTable(
        title="Leaderboard",
        caption=" ".join([*sentences, *ended]),
        columns=("trial", "test set", "n", "pos", "acc", "prec", "rec", "F1", "AUROC", "AP"),
        rows=tuple(rows),
    )


def describe_means(leaderboard: pd.DataFrame) -> list[str]:
    """Say of a cross-validation's figures that they are means over folds; nothing of others."""
    means = _means_of_folds(leaderboard)
    if not means:
        return []
    return [
        f"Figures are the {' or '.join(means)}, each read by itself; intervals are over patients, "
        "and hold the trained models as they are."
    ]


def _means_of_folds(leaderboard: pd.DataFrame) -> list[str]:
    """Find ``mean of 15 folds`` in how the intervals were made."""
    if "auroc_method" not in leaderboard:
        return []
    found = leaderboard["auroc_method"].astype(str).str.extract(r"(mean of \d+ folds)")[0]
    return sorted(found.dropna().unique())


def describe_ended(leaderboard: pd.DataFrame) -> list[str]:
    """Say of each trial that did not end well how it ended."""
    ended = leaderboard[~_is_done(leaderboard)]
    said = []
    for name, row in zip(_trial_names(ended), ended.to_dict("records"), strict=True):
        reason = row.get("reason")
        said.append(
            f"{name} {row['status']}" + (f": {reason}." if isinstance(reason, str) else ".")
        )
    return said


def _paper_table(
    layout: _Layout, own: pd.DataFrame, shuffled: pd.DataFrame, separates: Separates | None
) -> ResultTable:
    printed = sorted(
        (row for row in printed_rows() if layout.contains(row)),
        key=lambda row: (layout.losses.index(row.loss), MODALITIES.index(row.model)),
    )
    ours = {_key(row): _our_figures(row, own, shuffled) for row in printed}
    arms = {_arm(row): ours[_key(row)] for row in printed if not row.perturbation}
    winner, verdict = _winner(arms, separates)
    rows = []
    for row in printed:
        name = "  " + row.perturbation.replace("_", " ") if row.perturbation else row.model
        cells = [name, row.loss]
        for metric in PRINTED_METRICS:
            wins = metric == "auroc" and not row.perturbation and _arm(row) == winner
            cells += [format_share(ours[_key(row)].get(metric), mark=wins), row.digits[metric]]
        interval = row.accuracy_interval
        cells.append(f"[{format_share(interval.low)}-{format_share(interval.high)}]")
        cells.append(row.consistency_flag or MISSING)
        rows.append(tuple(cells))
    heads = [head for metric in PRINTED_METRICS for head in _heads(metric)]
    return ResultTable(
        title=layout.title,
        caption=_caption(layout, own, arms, verdict, any(row.perturbation for row in printed)),
        columns=("model", "loss", *heads, "acc paper 95 %", "paper flag"),
        rows=tuple(rows),
    )


def _our_figures(row: PrintedRow, own: pd.DataFrame, shuffled: pd.DataFrame) -> dict[str, float]:
    """Means over seeds; empty where the study lacks the arm or its sensitivity test."""
    if not row.perturbation:
        mine = own[_of_arm(own, _arm(row))]
        return {} if mine.empty else {m: float(mine[m].mean()) for m in PRINTED_METRICS}
    if shuffled.empty:
        return {}
    mine = shuffled[_of_arm(shuffled, _arm(row)) & (shuffled["perturbation"] == row.perturbation)]
    means = mine.groupby("metric")["perturbed"].mean()
    return {metric: float(means[metric]) for metric in PRINTED_METRICS if metric in means}


def _winner(
    arms: dict[Arm, dict[str, float]], separates: Separates | None
) -> tuple[Arm | None, str]:
    """Find the arm whose AUROC is shown to be the highest, and say so or why there is none.

    Figures at threshold .5 have no winner: a loss moves them all by moving the logits.
    """
    areas = {arm: f["auroc"] for arm, f in arms.items() if f and f["auroc"] == f["auroc"]}
    if len(areas) < 2:
        return None, ""
    first, second, *_ = sorted(areas, key=lambda arm: -areas[arm])
    answer = _ask(separates or {}, first, second)
    pair = f"{_name(first)} and {_name(second)}"
    if answer is None:
        return None, f"No winner is marked: the best two by AUROC ({pair}) were not compared."
    if not answer:
        return None, (f"No winner is marked: the AUROCs of the best two ({pair}) do not separate.")
    return first, (
        f"{MARK} marks the highest AUROC, which separates from the next ({pair}) after Holm's "
        "correction; figures at threshold .5 have no winner."
    )


def _caption(
    layout: _Layout,
    own: pd.DataFrame,
    arms: dict[Arm, dict[str, float]],
    verdict: str,
    with_shuffled: bool,
) -> str:
    rows = own[own["dataset"].eq(layout.dataset) & own["loss"].isin(layout.losses)]
    sizes = rows[["n", "n_positive"]].drop_duplicates()
    size = (
        f"n = {int(sizes.iloc[0]['n'])}, {int(sizes.iloc[0]['n_positive'])} positive"
        if len(sizes) == 1
        else "of different sizes"
    )
    seeds = rows.groupby(["modality", "loss"])["seed"].nunique()
    count = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    drawn = "one seed" if count == "1" else f"mean of {count} seeds"
    drawn = ", ".join([drawn, *_means_of_folds(rows)])
    sentences = [f"Ours: own test set, {size}, {drawn}."]
    if with_shuffled:
        sentences.append("Shuffled rows: mean over permutations, full test set.")
    sentences.append(verdict)
    lacking = [_name(arm) for arm, figures in arms.items() if not figures]
    if lacking:
        sentences.append(f"Not in this study: {', '.join(lacking)}.")
    sentences.append(
        f"Paper: printed figures; 95 % Wilson interval of the printed accuracy, n = "
        f"{PRINTED_TEST_SIZE[layout.dataset]}; flag f1: the printed F1 is not 2PR/(P+R) of the "
        "printed P and R, recall: it repeats the accuracy."
    )
    sentences.append(LABEL_RECOVERY)
    return " ".join(sentence for sentence in sentences if sentence)


def _reason_to_leave_out(layout: _Layout, own: pd.DataFrame) -> str:
    mine = own[
        own["dataset"].eq(layout.dataset)
        & own["loss"].isin(layout.losses)
        & own["modality"].isin(MODALITIES)
    ]
    if mine.empty:
        losses = " or ".join(layout.losses)
        return f"the study has no finished model with dataset {layout.dataset} and loss {losses}"
    there, whole = len(mine[["modality", "loss"]].drop_duplicates()), 3 * len(layout.losses)
    if 2 * there < whole:
        return f"the study has finished only {there} of its {whole} models"
    repeated = mine.duplicated(["modality", "dataset", "loss", "seed"], keep=False)
    if repeated.any():
        arm = tuple(mine.loc[repeated, ["modality", "dataset", "loss"]].iloc[0])
        return (
            f"the study has several models of {_name(arm)} and one seed (a further axis), and the "
            "paper has one"
        )
    return ""


def _ask(separates: Separates, first: Arm, second: Arm) -> bool | None:
    if callable(separates):
        return separates(first, second)
    return separates.get((first, second), separates.get((second, first)))


def _trial_names(leaderboard: pd.DataFrame) -> pd.Series:
    if "name" in leaderboard:
        return leaderboard["name"].astype(str)
    if leaderboard.empty:
        return pd.Series(dtype=str)
    columns = list(leaderboard.columns)
    further = columns[columns.index("reason") + 1 :] if "reason" in columns else []
    parts = leaderboard[["modality", "dataset", "loss", *further]].astype(str)
    names = parts.agg("-".join, axis=1)
    seed = leaderboard["seed"].astype(int)
    return names.where(seed == 0, names + "-seed" + seed.astype(str))


def _is_done(frame: pd.DataFrame) -> pd.Series:
    if "status" not in frame:
        return pd.Series(True, index=frame.index)
    return frame["status"] == "done"


def _of_arm(frame: pd.DataFrame, arm: Arm) -> pd.Series:
    modality, dataset, loss = arm
    return frame["modality"].eq(modality) & frame["dataset"].eq(dataset) & frame["loss"].eq(loss)


def _arm(row: PrintedRow) -> Arm:
    return row.model, row.dataset, row.loss


def _key(row: PrintedRow) -> tuple[Arm, str]:
    return _arm(row), row.perturbation


def _name(arm: tuple[str, ...]) -> str:
    return "-".join(arm)


def _heads(metric: str) -> tuple[str, str]:
    return SHORT[metric], f"{SHORT[metric]} paper"


def _need(frame: pd.DataFrame, name: str, columns: tuple[str, ...] | list[str]) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(f"{name} lacks the columns {', '.join(missing)}")
