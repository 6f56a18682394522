"""The page's section on single records: what of their image and text moved the model's answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_ray.damage import read_whole_table
from cxr_ray.data.masking import mask_text
from cxr_ray.data.prepared_record import read_records
from cxr_ray.data.reports import parse_report, view_text
from cxr_ray.errors import InputError
from cxr_ray.report.embedding import embed_pixels
from cxr_ray.report.explanation import WordAttribution
from cxr_ray.report.explanation_picture import heat_pixels, strip_pixels, word_shades
from cxr_ray.report.saliency import SECTIONS, TABLE_FILE, THIRDS, read_arrays
from cxr_ray.report.templates import is_missing
from cxr_ray.report.trial_folder import read_result, trained_config
from cxr_ray.storage import Storage

SAID = {
    "right_positive": "right, called positive",
    "right_negative": "right, called negative",
    "wrong_positive": "wrong, called positive",
    "wrong_negative": "wrong, called negative",
}
# Red for the label, blue against it: the ends of the heat map's colours.
FOR, AGAINST = (178, 24, 43), (33, 102, 172)


def read_saliency(folder: Path) -> pd.DataFrame:
    """Read a study's table of explained records; it is empty where there is none."""
    path = folder / TABLE_FILE
    if not path.exists():
        return pd.DataFrame()
    return read_whole_table(path, dtype={"experiment_id": str, "record_id": str})


def saliency_section(
    storage: Storage, rows: Sequence[Mapping[str, Any]], *, show_records: bool
) -> dict[str, Any] | None:
    """Gather what the page shows of explained records; None where there are none.

    Parameters
    ----------
    rows
        Of `read_saliency`, each with its place in the CSV and its trial's name.
    show_records
        Whether images and words are shown, which are then read from ``prepared/``.

    Returns
    -------
    ``name`` of the model; ``shown``, whether images and words are; ``problem``, why not although
    they should be; ``sections`` of the reports that occur; ``heat_size``; ``records``, each with
    its ``row``, ``said``, pictures ``image`` and ``strip``, and ``words``.
    """
    if not rows:
        return None
    trial = storage.trials / rows[0]["experiment_id"]
    explained = {each.record_id: each.explanation for each in read_arrays(trial) or ()}
    rows = [row for row in rows if row["record_id"] in explained]
    if not rows:
        return None
    seen: list[tuple[NDArray[np.uint8], str]] | None = None
    problem = None
    if show_records:
        try:
            seen = _read_seen(storage, trial, [row["record_id"] for row in rows])
        except InputError as error:
            problem = str(error)
    records = []
    for place, row in enumerate(rows):
        found = explained[row["record_id"]]
        pixels, text = seen[place] if seen else (None, None)
        records.append(
            {
                "row": row,
                "said": SAID[row["kind"]],
                "image": None
                if found.heat is None
                else embed_pixels(heat_pixels(found.heat, pixels)),
                "strip": None
                if found.words is None
                else embed_pixels(strip_pixels(found.words.tokens)),
                "tokens": 0 if found.words is None else len(found.words.tokens),
                "words": None
                if found.words is None or text is None
                else _shaded(found.words, text),
            }
        )
    sizes = [found.heat.shape for found in explained.values() if found.heat is not None]
    return {
        "name": rows[0]["name"],
        "shown": seen is not None,
        "problem": problem,
        "thirds": THIRDS,
        "sections": [s for s in SECTIONS if any(not is_missing(r[f"text_{s}"]) for r in rows)],
        "heat_size": f"{sizes[0][0]} by {sizes[0][1]}" if sizes else None,
        "records": records,
    }


def without_records(section: dict[str, Any] | None, storage: Storage) -> dict[str, Any] | None:
    """Give a section as it is without ``show_records``."""
    if section is None:
        return None
    return saliency_section(storage, [r["row"] for r in section["records"]], show_records=False)


def _read_seen(
    storage: Storage, trial: Path, names: Sequence[str]
) -> list[tuple[NDArray[np.uint8], str]]:
    """Read images, and reports as the model reads them."""
    keys, view = read_result(trial)["keys"], trained_config(trial).text
    return [
        (pixels, mask_text(view_text(parse_report(text), view.sections), view.mask))
        for pixels, text in read_records(storage, keys, names)
    ]


def _shaded(words: WordAttribution, text: str) -> list[dict[str, Any]]:
    """List a text's words, each with what is before it, its colour and its attribution."""
    shaded, end = [], 0
    for (start, stop), value, shade in zip(
        words.spans, words.words, word_shades(words), strict=True
    ):
        colour = FOR if shade > 0 else AGAINST
        shaded.append(
            {
                "before": "\n" if "\n" in text[end:start] else " ",
                "word": text[start:stop],
                "colour": f"rgba({colour[0]}, {colour[1]}, {colour[2]}, {0.7 * abs(shade):.2f})",
                "value": f"{value:+.3f}",
            }
        )
        end = stop
    return shaded
