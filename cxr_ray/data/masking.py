"""Deleting the words that name a finding from a report's text.

Masking lowers a leak, it does not close it: negations, templates and what a reader infers stay.
"""

from __future__ import annotations

import re

# CheXpert's mentions of Pneumonia (Irvin et al. 2019, phrases/mention/pneumonia.txt)
LABEL_TERMS = (r"pneumonias?", r"infectious process(?:es)?", r"infections?", r"infectious")

# the vocabularies of the other labels, one line each, after CheXpert's mention lists
FINDING_TERMS = (
    r"atelecta\w*|collaps\w*|volume loss",
    r"cardiomegaly|cardiac enlargement|enlarged (?:heart|cardiac silhouette)"
    r"|(?:heart|cardiac silhouette) (?:size )?(?:is )?(?:\w+ )?enlarged|cardiac decompensation",
    r"consolidat\w*|airspace (?:disease|opacit\w*)|air bronchograms?",
    r"o?edema\w*|congesti\w*|heart failure|chf|vascular (?:prominence|indistinctness)"
    r"|kerley(?: b)?(?: lines?)?|fluid overload",
    r"mediastin\w*|widened|widening",
    r"fractur\w*",
    r"mass(?:es)?|nodul\w*|lesions?|tumou?rs?|neoplas\w*|malignan\w*|carcinoma\w*|metasta\w*"
    r"|cancers?|granuloma\w*|cavit\w*",
    r"opaci\w*|infiltrat\w*|interstitial (?:markings?|disease)|densit(?:y|ies)|scar(?:s|ring)?"
    r"|bronchopneumon\w*|pneumonitis|pneumonic|aspirat\w*|fibro\w*|reticul\w*",
    r"effusions?|pleural fluid|costophrenic blunting|blunting|blunted",
    r"pleural (?:thickening|plaques?|scarring|disease)|thickening|plaques?",
    r"pneumothora\w*|hydropneumothora\w*|pneumomediastinum",
    r"tubes?|lines?|catheters?|pacemakers?|pacer|leads?|devices?|hardware|stents?|clips?|picc"
    r"|port-?a-?cath\w*|defibrillator|icd|valves?|prosthe\w*|sternotomy|wires?",
)

# what a report without findings says: it gives the negative class away
NORMAL_TERMS = (
    r"no (?:acute|active|significant|focal|evidence of|new|other|definite|convincing"
    r"|radiographic)\b(?: \w+){0,2}",
    r"within normal limits|normal\w*|unremarkable|clear(?:ly|ed|ing)?|abnormalit(?:y|ies)"
    r"|abnormal|intact|negative|acute cardiopulmonary\b(?: \w+)?|cardiopulmonary"
    r"|well[- ](?:expanded|inflated|aerated)|free of|without evidence(?: of)?"
    r"|no evidence(?: of)?",
)

MASKS = ("none", "label_terms", "all_finding_terms", "drop_sentence")


def _compiled(terms: tuple[str, ...]) -> re.Pattern[str]:
    """Match whole words: letters and digits end a word, the mask ``___`` does not belong to it."""
    joined = "|".join(terms).replace(" ", r"\s+")
    return re.compile(rf"(?<![^\W_])(?:{joined})(?![^\W_])", re.IGNORECASE)


LABEL_PATTERN = _compiled(LABEL_TERMS)
ALL_PATTERN = _compiled((*NORMAL_TERMS, *LABEL_TERMS, *FINDING_TERMS))
# a sentence ends at its full stop, at a blank line, and before a header in capitals
_SENTENCE_END = re.compile(r"((?<=[.!?])\s+|\n[ \t]*\n\s*|\n\s*(?=[A-Z][A-Z /()]+:))")


def mask_text(text: str, mask: str) -> str:
    """Delete words, or whole sentences, that name the label.

    Parameters
    ----------
    text : str
        A report or one of its views.
    mask : str
        ``none``; ``label_terms``: CheXpert's mentions of pneumonia; ``all_finding_terms``: also
        the other labels' vocabularies and phrases of normality; ``drop_sentence``: every sentence
        with one of ``label_terms``.

    Returns
    -------
    str
        Deleted words leave nothing behind; masking twice changes nothing more.
    """
    if mask == "none":
        return text
    if mask == "label_terms":
        return _without(text, LABEL_PATTERN)
    if mask == "all_finding_terms":
        return _without(text, ALL_PATTERN)
    if mask == "drop_sentence":
        return _without_sentences(text, LABEL_PATTERN)
    raise ValueError(f"text.mask: {mask!r} is unknown; known: {', '.join(MASKS)}")


def _without(text: str, pattern: re.Pattern[str]) -> str:
    """Delete matches until none is left: a deletion can bring words of a phrase together."""
    while True:
        shorter = _tidy(pattern.sub(" ", text))
        if shorter == text:
            return text
        text = shorter


def _without_sentences(text: str, pattern: re.Pattern[str]) -> str:
    pieces = _SENTENCE_END.split(text)
    kept = []
    for at in range(0, len(pieces), 2):
        if not pattern.search(pieces[at]):
            kept.append("".join(pieces[at : at + 2]))
    # a term that a sentence's end cuts in two is whole again here
    return _without("".join(kept), pattern)


def _tidy(text: str) -> str:
    """Collapse the white space that deletions leave, and close the gap before punctuation."""
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r" ([.,;:!?])", r"\1", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
