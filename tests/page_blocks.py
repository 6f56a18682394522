"""The code blocks of the README and the pages of the documentation."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_AND = re.compile(r""" && (?=(?:[^'"]|'[^']*'|"[^"]*")*$)""")  # outside quotations


@dataclass
class Block:
    """A block of code: its page and first line, its language ("" if indented), its text."""

    place: str
    language: str
    text: str

    @property
    def is_yaml(self):
        known = re.search(r"^(axes|parameters|csv):", self.text, re.M)
        return self.language == "yaml" or bool(not self.language and known)

    @property
    def is_shell(self):
        return self.language in ("", "sh") and not self.is_yaml


def code_blocks(page):
    """Collect the fenced and indented blocks of a page, in items of lists too."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    number = column = 0  # where the text of an item begins
    while number < len(lines):
        line, start = lines[number], number
        number += 1
        indent = " " * (column + 4)
        if fence := re.match(r"\s*```(\w*)", line):
            while lines[number].strip() != "```":
                number += 1
            language, body = fence[1], lines[start + 1 : number]
            number += 1
        elif line.startswith(indent) and line.strip() and not lines[start - 1].strip():
            while number < len(lines) and re.match(rf"{indent}|\s*$", lines[number]):
                number += 1
            language, body = "", lines[start:number]
        else:
            if line.strip() and not line.startswith(" "):
                item = re.match(r"[-*] +|\d+\. +", line)
                column = len(item[0]) if item else 0
            continue
        text = dedent("\n".join(body)).strip() + "\n"
        found.append(Block(f"{page.name}:{start + 1}", language, text))
    return found


def commands_of(text):
    """Split shell text into its commands: continued lines are joined, comments left out."""
    pending = ""
    for line in text.replace("\\\n", " ").splitlines():
        pending = f"{pending} {line}".strip()
        try:
            shlex.split(pending, comments=True)
        except ValueError:  # a quotation goes on in the next line
            continue
        for command in _AND.split(re.sub(r"(^|\s+)# .*", "", pending)):
            if command:
                yield " ".join(command.split())
        pending = ""
    assert not pending, f"{pending} has an open quotation"
