import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cxr_ray.report.checklist import SECTIONS, read_checklist, write_checklist

DOCS = Path(__file__).parents[2] / "docs" / "checklist.md"
TEMPLATES = Path(__file__).parents[2] / "cxr_ray" / "report"
STUDY = {"name": "small <b>"}


def write(folder, sections):
    page = "".join(f'<section id="{name}"></section>' for name in sections)
    return write_checklist(folder, STUDY, page).read_text()


class Links(HTMLParser):
    """Where a page links to, and what it loads."""

    def __init__(self, source):
        super().__init__()
        self.links, self.loads = [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "a":
            self.links.append(attributes["href"])
        elif tag in ("script", "link", "img"):
            self.loads.append(tag)


def test_every_item_of_both_guidelines_is_there_once():
    tripod, claim = read_checklist()
    assert [item.id for item in claim.items] == [str(number) for number in range(1, 45)]
    numbers = [int(re.match(r"\d+", item.id)[0]) for item in tripod.items]
    assert sorted(set(numbers)) == list(range(1, 28))
    assert numbers == sorted(numbers)
    assert len({item.id for item in tripod.items}) == 52


@pytest.mark.parametrize("guideline", read_checklist(), ids=lambda each: each.name)
def test_an_item_says_where_it_is_covered_and_what_is_lacking(guideline):
    for item in guideline.items:
        assert item.covered in ("yes", "partly", "no"), item
        assert bool(item.where) == bool(item.there) == (item.covered != "no"), item
        assert bool(item.lacks) == (item.covered != "yes"), item
        assert set(item.where) <= set(SECTIONS), item


def test_a_section_that_the_page_has_not_covers_nothing(tmp_path):
    html = write(tmp_path, ["cohort"])
    assert {link for link in Links(html).links if "report.html#" in link} == {"report.html#cohort"}
    assert "report has no section external test" in html
    whole = write(tmp_path, SECTIONS)
    assert "has no section" not in whole
    assert {f"report.html#{name}" for name in SECTIONS} <= set(Links(whole).links)


def test_the_checklist_is_one_file_that_asks_for_nothing(tmp_path):
    html = write(tmp_path, SECTIONS)
    assert not Links(html).loads
    assert "http:" not in html and "https:" not in html
    assert "small &lt;b&gt;" in html


def test_every_section_is_one_that_a_template_makes():
    templates = "".join(path.read_text() for path in TEMPLATES.glob("page*.j2"))
    made = set(re.findall(r'<(?:section|div) id="(\w+)"', templates))
    assert set(SECTIONS) <= made | {"calibration", "external"}


def test_the_docs_hold_every_item_as_the_checklist_has_it():
    text = DOCS.read_text()
    for guideline in read_checklist():
        for item in guideline.items:
            assert f"| {item.id} | {item.asks} | {item.covered} |" in text
