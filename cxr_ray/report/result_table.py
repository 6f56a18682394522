"""A table of results, for a terminal, a Markdown page or a spreadsheet."""

import csv
import io
import textwrap
from dataclasses import dataclass

MARK = "*"
MISSING = "-"


@dataclass(frozen=True)
class ResultTable:
    """A titled table of cells that are already text.

    Attributes
    ----------
    title : str
    caption : str
        What the reader must know: sizes, marks, flags.
    columns : tuple of str
        The first names the rows. In a terminal a heading is broken after its first word.
    rows : tuple of tuple of str
    """

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: {len(row)} cells under {len(self.columns)} heads")

    def to_text(self, width: int = 110) -> str:
        """Align the table in at most `width` columns.

        Where it does not fit, the row names lose their middle. Without rows there are no heads.

        Parameters
        ----------
        width : int

        Returns
        -------
        str
            Title, headings, rows and wrapped caption, without a newline at the end.

        Examples
        --------
        >>> table = ResultTable("A", "", ("model", "acc"), (("text", ".91*"), ("image", ".90")))
        >>> print(table.to_text())
        A
        model   acc
        -----------
        text   .91*
        image  .90
        """
        if not self.rows:
            return "\n".join([self.title, *textwrap.wrap(self.caption, width)])
        heads = [_break_once(column) for column in self.columns]
        cells = list(zip(*self.rows, strict=True))
        # a place for the mark, so that the digits stay under each other
        marked = [any(cell.endswith(MARK) for cell in column) for column in cells]
        padded = [
            [cell if cell.endswith(MARK) else cell + " " * own for cell in column]
            for column, own in zip(cells, marked, strict=True)
        ]
        sizes = [
            max(len(text) for text in (*head, *column, ""))
            for head, column in zip(heads, padded, strict=True)
        ]
        gap = 2 if sum(sizes) + 2 * (len(sizes) - 1) <= width else 1
        excess = sum(sizes) + gap * (len(sizes) - 1) - width
        if excess > 0:
            sizes[0] = max(12, sizes[0] - excess)
            padded[0] = [_shorten(cell, sizes[0]) for cell in padded[0]]
        left = [_is_text(column) for column in cells]

        def line(texts: list[str]) -> str:
            aligned = (
                text.ljust(size) if own else text.rjust(size)
                for text, size, own in zip(texts, sizes, left, strict=True)
            )
            return (" " * gap).join(aligned).rstrip()

        lines = [self.title]
        lines += [text for text in (line([head[row] for head in heads]) for row in (0, 1)) if text]
        lines.append("-" * (sum(sizes) + gap * (len(sizes) - 1)))
        lines += [line(list(row)) for row in zip(*padded, strict=True)]
        lines += textwrap.wrap(self.caption, width)
        return "\n".join(lines)

    def to_markdown(self) -> str:
        """Write the table as Markdown, title and caption as paragraphs.

        Returns
        -------
        str
        """
        rows = [self.columns, ("---",) * len(self.columns), *self.rows]
        # an asterisk would be read as emphasis, a pipe as a cell's end
        lines = ["| " + " | ".join(_escape(cell.strip()) for cell in row) + " |" for row in rows]
        grid = "\n".join(lines) if self.rows else ""
        parts = [f"**{self.title}**", grid, _escape(self.caption)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_csv(self) -> str:
        """Write headings and rows as CSV, without marks; empty where a figure is missing.

        Returns
        -------
        str
        """
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow("" if cell == MISSING else cell.rstrip(MARK).strip() for cell in row)
        return buffer.getvalue()


def format_share(value: float | None, mark: bool = False) -> str:
    """Write a figure between -1 and 1 with four digits, as the paper does.

    Parameters
    ----------
    value : float or None
        None and NaN give a dash.
    mark : bool

    Returns
    -------
    str

    Examples
    --------
    >>> format_share(0.91234), format_share(1.0), format_share(0.5, mark=True), format_share(None)
    ('.9123', '1.0000', '.5000*', '-')
    """
    if value is None or value != value:
        return MISSING
    text = f"{value:.4f}".replace("0.", ".", 1) if abs(value) < 0.99995 else f"{value:.4f}"
    return text + MARK * mark


def _break_once(head: str) -> tuple[str, str]:
    first, _, rest = head.partition(" ")
    return first, rest


def _shorten(text: str, size: int) -> str:
    if len(text) <= size:
        return text
    front = (size - 2) // 2
    return text[:front] + ".." + text[len(text) - (size - 2 - front) :]


def _is_text(column: tuple[str, ...]) -> bool:
    return any(cell.strip()[:1].isalpha() for cell in column)


def _escape(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")
