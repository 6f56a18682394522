"""Which items of two reporting guidelines a study's report covers, and which it cannot.

The items are kept in ``checklist.yaml``, paraphrased. A section that this study's page does not
have covers nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cxr_ray.report.templates import open_templates
from cxr_ray.storage import write_whole

CHECKLIST_FILE = "checklist.html"
SECTIONS = {
    "answer": "the answer",
    "leaderboard": "leaderboard",
    "paper": "beside the paper",
    "modality": "which modality",
    "curves": "curves",
    "calibration": "calibration",
    "cohort": "cohort",
    "audit": "audit",
    "comparisons": "what each choice changes",
    "subgroups": "subgroups",
    "external": "external test",
    "cost": "cost",
    "repeat": "how to repeat it",
}
"""The report's sections, by the id of each."""


@dataclass(frozen=True)
class Item:
    """An item of a guideline.

    Attributes
    ----------
    id, asks : str
        Its number and what it asks for, paraphrased.
    covered : str
        ``yes``, ``partly`` or ``no``.
    where : tuple of str
        Ids of the report's sections.
    there, lacks : str
        What of it the report holds, and what the authors must write.
    """

    id: str
    asks: str
    covered: str
    where: tuple[str, ...] = ()
    there: str = ""
    lacks: str = ""

    def on_page(self, anchors: frozenset[str]) -> "Item":
        """Keep the sections that a page has; without any of them nothing is covered."""
        where = tuple(section for section in self.where if section in anchors)
        if where or not self.where:
            return replace(self, where=where)
        names = ", ".join(SECTIONS[section] for section in self.where)
        lacks = f"all of it: this study's report has no section {names}"
        return replace(self, covered="no", where=(), there="", lacks=lacks)


@dataclass(frozen=True)
class Guideline:
    """A reporting guideline."""

    name: str
    source: str
    items: tuple[Item, ...]

    def count(self, covered: str) -> int:
        """Count the items that are covered so far."""
        return sum(item.covered == covered for item in self.items)


def read_checklist() -> tuple[Guideline, ...]:
    """Read the guidelines and what a report can cover of them."""
    text = (resources.files("cxr_ray.report") / "checklist.yaml").read_text(encoding="utf-8")
    return tuple(
        Guideline(
            each["name"],
            each["source"],
            tuple(
                Item(**{**item, "where": tuple(item.get("where", ()))}) for item in each["items"]
            ),
        )
        for each in yaml.safe_load(text)
    )


def write_checklist(folder: Path, study: Mapping[str, Any], page: str) -> Path:
    """Write the checklist of a study beside its report.

    Parameters
    ----------
    folder
        The study's folder.
    study
        The content of ``study.json``.
    page
        The report's HTML: only sections that it has cover an item.
    """
    anchors = frozenset(re.findall(r'<(?:section|div) id="([\w-]+)"', page))
    guidelines = [
        replace(each, items=tuple(item.on_page(anchors) for item in each.items))
        for each in read_checklist()
    ]
    template = open_templates("cxr_ray.report").get_template("checklist.html.j2")
    html = template.render(study=study, guidelines=guidelines, sections=SECTIONS)
    write_whole(folder / CHECKLIST_FILE, html)
    return folder / CHECKLIST_FILE
