"""How far MIMIC-CXR-JPG's two labellers, CheXpert and NegBio, agree on a cohort's label."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cxr_ray.config.schema import CohortConfig
from cxr_ray.data.sources.external import ExternalSource
from cxr_ray.data.sources.mimic import MimicSource
from cxr_ray.data.sources.mimic_labels import ABSENT, MENTIONS, cross_tabulate
from cxr_ray.errors import InputError
from cxr_ray.evaluation.agreement import cohen_kappa

if TYPE_CHECKING:
    from cxr_ray.data.sources.source import Source

LABELLERS = ("chexpert", "negbio")


def label_agreement(
    source: "Source", rules: CohortConfig, studies: Sequence[str]
) -> dict[str, Any] | None:
    """Count how the two labellers agree on the cohort's label, among the cohort's studies.

    Returns
    -------
    dict or None
        ``label``; ``rows`` and ``columns``, the labellers; ``categories``; ``counts``, a row a
        category of the first; ``without_row``, studies that a table lacks; and Cohen's kappa over
        all ``categories`` and of ``positive_or_not``. None where a source is not MIMIC's, or one
        of the tables is not there or cannot be read.
    """
    if isinstance(source, ExternalSource):
        source = source.source
    # The phantom's two tables are copies of each other.
    if type(source) is not MimicSource:
        return None
    try:
        tables = source.label_values(LABELLERS, rules)
    except InputError:
        return None  # a table that the cohort itself does not read stops nothing
    if tables is None:
        return None
    wanted = [int(study) for study in studies]
    first, second = (table.set_index("study_id").reindex(wanted) for table in tables)
    known = (first["labelled"].notna() & second["labelled"].notna()).to_numpy()
    counts = cross_tabulate(first[known], second[known])
    positive = [
        [counts[0, 0], counts[0, 1:].sum()],
        [counts[1:, 0].sum(), counts[1:, 1:].sum()],
    ]
    return {
        "label": rules.label,
        "rows": LABELLERS[0],
        "columns": LABELLERS[1],
        "categories": [*MENTIONS, ABSENT],
        "counts": counts.tolist(),
        "without_row": int((~known).sum()),
        "kappa": {
            "categories": _plain(asdict(cohen_kappa(counts))),
            "positive_or_not": _plain(asdict(cohen_kappa(positive))),
        },
    }


def describe_agreement(found: dict[str, Any]) -> str:
    """Lay the counts out as a table, with both kappas under it."""
    categories = found["categories"]
    lines = [
        f"{found['label']} by {found['rows']} (rows) and {found['columns']} (columns), studies",
        f"{'':10}" + "".join(f"{name:>11}" for name in categories),
    ]
    for name, row in zip(categories, found["counts"], strict=True):
        lines.append(f"{name:10}" + "".join(f"{count:>11}" for count in row))
    for over, what in (("categories", "over all four"), ("positive_or_not", "positive or not")):
        lines.append(f"Cohen's kappa, {what}: {format_kappa(found['kappa'][over])}")
    if found["without_row"]:
        lines.append(f"without a row in one of the tables: {found['without_row']}")
    return "\n".join(lines)


def format_kappa(found: dict[str, Any]) -> str:
    """Write kappa with its interval, or why there is none."""
    if found["kappa"] is None:
        return str(found["method"])
    return f"{found['kappa']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Put None in the place of NaN, which JSON lacks."""
    return {name: None if value != value else value for name, value in found.items()}
