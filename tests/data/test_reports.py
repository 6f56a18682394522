import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.data.reports import compose_report, parse_report, view_text

FINAL = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset cough
   for ___ days  // eval

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 There is no focal consolidation. The comparison: unchanged.

 Bones are intact.

 IMPRESSION:

 No acute process.
"""

WET = """WET READ: ___ ___ ___ 9:12 AM
 Right lower lobe pneumonia.
 INDICATION: not the real one
 WET READ VERSION #1 ___ ___ ___ 8:47 AM
______________________________________________________________________________
                                 FINAL REPORT
 HISTORY:  Fever.

 CONCLUSION:  Clear.
"""


def test_a_final_report_is_cut_at_its_headers():
    report = parse_report(FINAL)
    assert report.sections == {
        "examination": "CHEST (PA AND LAT)",
        "indication": "___F with new onset cough for ___ days // eval",
        "technique": "Chest PA and lateral",
        "comparison": "None.",
        "findings": "There is no focal consolidation. The comparison: unchanged. Bones are intact.",
        "impression": "No acute process.",
    }
    assert report.full == FINAL
    assert report.label_section == "impression"


@pytest.mark.parametrize(
    ("header", "section"),
    [
        ("INDICATION", "indication"),
        ("CLINICAL INFORMATION", "indication"),
        ("REASON FOR EXAM", "indication"),
        ("REASON FOR EXAMINATION", "indication"),
        ("Reason for exam", "indication"),
        ("Indication", "indication"),
        ("HISTORY", "history"),
        ("CLINICAL HISTORY", "history"),
        ("IMPRESSION", "impression"),
        ("CONCLUSION", "impression"),
        ("Findings", "findings"),
        ("COMPARISON", "comparison"),
        ("TECHNIQUE", "technique"),
        ("PORTABLE AP CHEST", "other"),
    ],
)
def test_each_header_form_opens_its_section(header, section):
    assert parse_report(f"  {header} :  words of it\n").sections == {section: "words of it"}


@pytest.mark.parametrize(
    "line",
    [
        "impression: lower case is no header",
        "The findings: mid-sentence is no header",
        "Compared with the prior: no header",
        "Impression without a colon",
        "SEEN BY DR. X AT 9:30 AM",
    ],
)
def test_words_that_only_look_like_a_header_stay_in_their_section(line):
    report = parse_report(f"FINDINGS: first\n{line}\n")
    assert report.sections == {"findings": f"first {line}"}


def test_a_wet_read_is_never_part_of_the_indication():
    report = parse_report(WET)
    assert set(report.sections) == {"wet_read", "history", "impression"}
    assert "pneumonia" in report.sections["wet_read"]
    assert view_text(report, ["indication"]) == ""
    after = parse_report("INDICATION: cough\n Wet read: ___ pneumonia\n FINDINGS: clear")
    assert after.sections == {
        "indication": "cough",
        "wet_read": "___ pneumonia",
        "findings": "clear",
    }


def test_a_reading_after_the_indication_without_header_never_enters_it():
    text = "INDICATION: cough\n\n Lungs show pneumonia.\n\n COMPARISON: None.\n\n A.\n\n Clear."
    report = parse_report(text)
    assert report.sections["indication"] == "cough"
    assert report.sections["other"] == "Lungs show pneumonia. A."
    assert report.sections["last"] == "Clear."
    assert report.label_section == "last"


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("FINDINGS: a\n\nIMPRESSION: b", "impression"),
        ("FINDINGS: a\n\nIMPRESSION:   \n", "findings"),
        ("INDICATION: a\n\nthe reading", "last"),
        ("just a note", "last"),
        ("WET READ: only this", None),
        ("  \n ", None),
    ],
)
def test_the_label_section_is_the_one_that_chexpert_reads(text, section):
    assert parse_report(text).label_section == section


def test_views_join_sections_and_a_missing_one_is_empty():
    report = parse_report(FINAL)
    assert view_text(report, ["impression", "history", "comparison"]) == "No acute process.\nNone."
    assert view_text(report, ["history"]) == ""
    assert view_text(report, ["full"]) == FINAL


def test_composed_reports_parse_into_the_same_sections():
    sections = {"indication": "Fever", "findings": "Clear.", "impression": "Normal", "history": ""}
    parsed = parse_report(compose_report(sections)).sections
    assert parsed == {"indication": "Fever", "findings": "Clear.", "impression": "Normal"}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=30),
            st.sampled_from(
                ["FINAL REPORT", "WET READ:", "\n", "\n\n", "IMPRESSION:", "INDICATION: ", "_" * 12]
            ),
        ),
        max_size=12,
    )
)
def test_no_text_at_all_breaks_the_parser_and_no_word_is_invented(pieces):
    text = "\n".join(pieces)
    report = parse_report(text)
    assert report.full == text
    for name, section in report.sections.items():
        assert section.strip()
        assert name == name.lower()
        assert all(word in text for word in section.split())
