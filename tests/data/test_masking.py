import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.data.masking import ALL_PATTERN, LABEL_PATTERN, mask_text

WORDS = st.sampled_from(
    [
        *("pneumonia", "Pneumonias,", "infectious", "process", "processes.", "infection", "no"),
        *("acute", "evidence", "of", "within", "normal", "limits", "clear.", "effusion", "heart"),
        *("enlarged", "___", "-", "fever", "\n", "\n\n", "IMPRESSION:", "is", "pleural", "fluid"),
    ]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=25).map(" ".join))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("No pneumonia.", "No."),
        ("Right PNEUMONIA, infectious process or infections", "Right, or"),
        ("an infectious\nprocess here", "an here"),
        ("___-pneumonia ___pneumonia___", "___- ___ ___"),
        ("pneumothorax and pneumonectomy stay", "pneumothorax and pneumonectomy stay"),
        ("disinfection stays", "disinfection stays"),
        ("PNEUMON\u0130A or \u0131nfect\u0131on", "or"),
    ],
)
def test_label_terms_are_deleted_as_whole_words(text, masked):
    assert mask_text(text, "label_terms") == masked


def test_all_finding_terms_also_hide_other_labels_and_normality():
    text = (
        "Lungs are clear. No acute cardiopulmonary process. Heart size within normal limits."
        " Unremarkable. Small effusions, atelectasis, edema; pneumothorax. PICC line. Fever."
    )
    masked = mask_text(text, "all_finding_terms").lower()
    for word in ("clear", "normal", "unremarkable", "acute", "effusion", "atelec", "edema", "picc"):
        assert word not in masked
    assert "fever" in masked and "pneumo" not in masked


def test_a_sentence_with_a_label_term_goes_and_its_neighbours_stay():
    text = "Fever. Eval for\npneumonia in ___. Heart is big.\n\nIMPRESSION: Infection.\n\nStable."
    assert mask_text(text, "drop_sentence") == "Fever. Heart is big.\n\nStable."


def test_a_header_starts_a_sentence_of_its_own():
    text = "INDICATION: cough\n IMPRESSION: pneumonia\n TECHNIQUE: PA"
    assert mask_text(text, "drop_sentence") == "INDICATION: cough\nTECHNIQUE: PA"


def test_no_mask_changes_nothing_and_an_unknown_one_is_refused():
    assert mask_text("  pneumonia \n", "none") == "  pneumonia \n"
    with pytest.raises(ValueError, match="label_terms"):
        mask_text("x", "everything")


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_nothing_that_the_mask_looks_for_is_left_and_twice_is_once(text):
    for mask, pattern in (
        ("label_terms", LABEL_PATTERN),
        ("all_finding_terms", ALL_PATTERN),
        ("drop_sentence", LABEL_PATTERN),
    ):
        masked = mask_text(text, mask)
        assert pattern.search(masked) is None
        assert mask_text(masked, mask) == masked
