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
# every label term has one of these, in any case (i, k and s have odd ones), and most reports none
LABEL_STEMS = ("pneumon", "nfect")
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
    if mask not in MASKS:
        raise ValueError(f"text.mask: {mask!r} is unknown; known: {', '.join(MASKS)}")
    if mask == "none":
        return text
    if mask == "all_finding_terms":
        return _without(text, ALL_PATTERN)
    lowered = text.lower()
    if not any(stem in lowered for stem in LABEL_STEMS):
        return _tidy(text)
    if mask == "drop_sentence":
        text = _without_sentences(text, LABEL_PATTERN)
    # a term that a sentence's end cuts in two is whole again here
    return _without(text, LABEL_PATTERN)


def _without(text: str, pattern: re.Pattern[str]) -> str:
    """Delete matches until none is left: a deletion can bring words of a phrase together."""
    text, deleted = _tidy(text), 1
    while deleted:
        text, deleted = pattern.subn(" ", text)
        text = _tidy(text) if deleted else text
    return text


def _without_sentences(text: str, pattern: re.Pattern[str]) -> str:
    pieces = _SENTENCE_END.split(text)
    pairs = [pieces[at : at + 2] for at in range(0, len(pieces), 2)]
    return "".join("".join(pair) for pair in pairs if not pattern.search(pair[0]))


def _tidy(text: str) -> str:
    """Collapse the white space that deletions leave, and close the gap before punctuation."""
    text = "\n".join([" ".join(line.split()) for line in text.split("\n")])
    text = re.sub(r" (?=[.,;:!?])", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
