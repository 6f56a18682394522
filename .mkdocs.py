"""Brings into the site what its pages link to outside of ``docs/``, under ``project/``."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
FOLDER = re.compile(r"\[([^]]+)\]\([^)]+/\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the project's own pages, and every file that a page of ``docs/`` links to."""
    pages = [path.read_text() for path in Path(config.docs_dir).glob("*.md")]
    pages += [(ROOT / name).read_text().replace("](", "](../") for name in PAGES]
    linked = {name for page in pages for name in OUTSIDE.findall(page)}
    for name in sorted({*linked, *PAGES}):
        path = PurePosixPath(name)
        if path.parts[0] != "docs" and (ROOT / path).is_file():
            content = (ROOT / path).read_bytes()
            files.append(File.generated(config, f"project/{path}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to where the site has what they name; those to folders become words."""
    if not page.file.src_uri.startswith("project/"):
        return OUTSIDE.sub(r"](project/\1", markdown)
    return FOLDER.sub(r"\1", markdown.replace("](docs/", "](../"))
