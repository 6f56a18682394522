"""Where the words of a text lie among its tokens, whatever the tokenizer."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_ray.data.reports import name_lines
from cxr_ray.data.tokenization import Tokenize


@dataclass(frozen=True)
class PlacedWords:
    """The words of a text, split at white space, as far as a model reads them.

    Attributes
    ----------
    spans
        (W, 2) int: where each begins and ends in the text.
    tokens
        (W,) int: how many tokens each has; the last one may be cut.
    leading, trailing
        Special tokens before the first word and after the last.
    """

    spans: NDArray[np.int64]
    tokens: NDArray[np.int64]
    leading: int
    trailing: int

    def sum(self, by_token: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up what the tokens of each word have: (L,) to (W,)."""
        number = np.repeat(np.arange(len(self.tokens)), self.tokens)
        read = by_token[self.leading : self.leading + len(number)]
        found: NDArray[np.float64] = np.zeros(len(self.tokens))
        np.add.at(found, number, read)
        return found


def place_words(text: str, tokenize: Tokenize) -> PlacedWords:
    """Count the tokens of each word, by tokenising the text up to its end.

    No tokenizer joins words over white space. Words behind the model's last token are left out.
    """
    special, whole = tokenize(["", text])
    leading = next(
        (n for n, (a, b) in enumerate(zip(special, whole, strict=False)) if a != b), len(special)
    )
    room = len(whole) - len(special)
    words = list(re.finditer(r"\S+", text))[: len(whole)]
    counts = [len(ids) - len(special) for ids in tokenize([text[: word.end()] for word in words])]
    tokens = np.diff(np.minimum(counts, room), prepend=0).astype(np.int64)
    spans = np.array([word.span() for word in words], np.int64).reshape(-1, 2)
    read = np.flatnonzero(tokens)
    last = read[-1] + 1 if len(read) else 0
    return PlacedWords(spans[:last], tokens[:last], leading, len(special) - leading)


def name_sections(text: str, spans: NDArray[np.int64], sections: tuple[str, ...]) -> list[str]:
    """Name the report's section of each word.

    Parameters
    ----------
    text
        What a model reads of a report.
    spans
        (W, 2): where its words begin and end.
    sections
        The view that it is of: ``full``, or sections that lie in it a line each. Where a masked
        view has lost a line, its words are ``other``.
    """
    lines = text.splitlines(keepends=True)
    names = name_lines(text)
    if "full" not in sections:
        names = list(sections) if len(lines) == len(sections) else ["other"] * len(lines)
    ends = np.cumsum([len(line) for line in lines])
    return [names[line] for line in np.searchsorted(ends, spans[:, 0], side="right")]
