"""Sections of a radiology report, by the headers that occur in practice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

# a section's headers; matched in upper case or with a capital first letter, before a colon
HEADERS = {
    "findings": r"findings?|findings? (?:and|/|&) impressions?|impressions? (?:and|/|&) findings?",
    "impression": r"impressions?|conclusions?",
    "indication": (
        r"(?:clinical )?indications?(?: for (?:the )?(?:exam|examination|study))?"
        r"|clinical information|reasons? for (?:the |this )?(?:exam|examination|study)"
        r"|indications? and history|clinical indications? and history"
    ),
    "history": r"(?:clinical |patient |medical )?history|history and indications?",
    "comparison": r"comparisons?(?: stud(?:y|ies))?",
    "technique": r"techniques?",
    "examination": r"exam|examination|type of exam(?:ination)?|study|procedure",
    "recommendation": r"recommendations?|recommendation\(s\)",
    "notification": r"notifications?",
    "addendum": r"addendum",
}
_KNOWN = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in HEADERS.items()}
_FINAL = r"FINAL (?:REPORT|ADDENDUM)\b[ \t:]*"
_WET = r"(?:W(?:ET|et) R(?:EAD|ead)|W(?:et) read|PROVISIONAL FINDINGS IMPRESSION|PFI)\b[^:\n]*:?"
_TITLE = r"[A-Z][A-Za-z0-9 ,.&/()'#-]{1,70}"
# one expression for whatever ends a section, tried at the start of each line
_MARK = re.compile(
    rf"\n[ \t]*(?:(?P<final>{_FINAL})|(?P<rule>_{{10,}}[ \t]*$)|(?P<wet>{_WET})"
    rf"|(?P<title>{_TITLE})[ \t]*:(?!\d))",
    re.MULTILINE,
)
_BREAK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_WHOLE = ("findings", "impression", "other", "recommendation", "addendum", "wet_read")


@dataclass(frozen=True)
class ParsedReport:
    """A report by section.

    Attributes
    ----------
    sections : dict of str to str
        ``findings``, ``impression``, ``indication``, ``history``, ``comparison``, ``technique``,
        ``wet_read`` and so on; ``last`` is the last paragraph that has no header, ``other`` what
        belongs to none of these. White space is collapsed; no section is blank.
    full : str
        The text as it is.
    label_section : str or None
        Where CheXpert reads the label: ``impression``, else ``findings``, else ``last`` (the
        report's last section); None for a report without text.
    """

    sections: dict[str, str]
    full: str
    label_section: str | None


def parse_report(text: str) -> ParsedReport:
    """Parse any text; what has no header is kept too.

    Headers stand at the start of a line, in capitals or with a capital first letter, before a
    colon. A wet read, a preliminary reading, is everything from its header to the final report.
    In sections of one paragraph, such as the indication, a second paragraph is text without
    header: a reading that follows an indication without saying so never enters it.
    """
    found: dict[str, list[str]] = {}
    blocks = list(_blocks(text))
    for position, (name, body, _) in enumerate(blocks):
        paragraphs = [p for p in (" ".join(part.split()) for part in _BREAK.split(body)) if p]
        is_last = position == len(blocks) - 1
        if name in _WHOLE:
            found.setdefault(name, []).extend(paragraphs)
            continue
        if name is not None:
            found.setdefault(name, []).extend(paragraphs[:1])
            paragraphs = paragraphs[1:]
        if is_last:
            found.setdefault("last", []).extend(paragraphs[-1:])
            paragraphs = paragraphs[:-1]
        found.setdefault("other", []).extend(paragraphs)
    sections = {name: " ".join(parts) for name, parts in found.items() if parts}
    return ParsedReport(sections, text, _label_section(sections))


def view_text(report: ParsedReport, sections: Sequence[str]) -> str:
    """Join the named sections by newlines; ``full`` is the whole text, a missing one nothing."""
    parts = (report.full if name == "full" else report.sections.get(name, "") for name in sections)
    return "\n".join(part for part in parts if part.strip())


def compose_report(sections: Mapping[str, str]) -> str:
    """Write sections that a table already holds apart as one report, each under its header."""
    written = (
        f"{name.upper().replace('_', ' ')}: {text.strip()}"
        for name, text in sections.items()
        if text.strip()
    )
    return "\n\n".join(written)


def _label_section(sections: Mapping[str, str]) -> str | None:
    for name in ("impression", "findings"):
        if name in sections:
            return name
    return "last" if any(name != "wet_read" for name in sections) else None


def name_lines(text: str) -> list[str]:
    r"""Name the section that each line of ``text.splitlines()`` belongs to, ``other`` if none.

    Examples
    --------
    >>> name_lines("Chest.\nINDICATION: Fever,\ncough.\nFINDINGS: None.")
    ['other', 'indication', 'indication', 'findings']
    """
    names = ["other"] * len(text.splitlines())
    for name, _, line in _blocks(text):
        names[line:] = [name or "other"] * len(names[line:])
    return names


def _blocks(text: str) -> Iterator[tuple[str | None, str, int]]:
    """Section name (None before any header), raw body and first line, in order."""
    name: str | None = None
    body, start, line = "", 0, 0
    text = "\n".join(["", *text.splitlines()])
    marks = list(_MARK.finditer(text))
    for number, mark in enumerate(marks):
        kind, section = mark.lastgroup, None
        if kind in ("wet", "title"):
            section = "wet_read" if kind == "wet" else _section(mark["title"])
            in_wet_read = name == "wet_read" and any(later["final"] for later in marks[number:])
            if section is None or in_wet_read:
                continue
        body += text[start : mark.start()]
        start = mark.end()
        if kind == "rule" and name != "wet_read":
            continue
        yield name, body, line
        name, body, line = section, "", text.count("\n", 0, mark.start())
    yield name, body + text[start:], line


@lru_cache(maxsize=1000)
def _section(title: str) -> str | None:
    """Name the section that a title opens, if it opens one."""
    title = " ".join(title.split())
    for name, pattern in _KNOWN.items():
        if pattern.fullmatch(title):
            return name
    letters = [character for character in title if character.isalpha()]
    return "other" if len(letters) >= 3 and title.upper() == title else None
