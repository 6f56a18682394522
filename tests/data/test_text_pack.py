import json
import zipfile
import zlib
from itertools import product

import numpy as np
import pytest

from cxr_ray.data.masking import MASKS
from cxr_ray.data.text_pack import (
    View,
    count_empty,
    join_chunks,
    open_text,
    read_column,
    read_reports_chunk,
    report_chunks,
    tokenize_chunk,
)
from cxr_ray.data.tokenization import open_trained, train_wordpiece

REPORTS = {
    "whole": "INDICATION: Fever.\n\nFINDINGS: Lungs clear.\n\nIMPRESSION: No pneumonia.",
    "no_indication": "FINDINGS: Opacity at the base.\n\nIMPRESSION: Pneumonia is likely.",
    "empty": "",
    "last": "CHEST FILM\n\nHeart size normal. Lungs clear.",
}


class Reports:
    """A source of reports that counts how often each is read."""

    def __init__(self, **reports):
        self.reports = reports
        self.reads = []

    def read_report(self, reference):
        self.reads.append(reference)
        if reference not in self.reports:
            raise FileNotFoundError(reference)
        return self.reports[reference]


@pytest.fixture
def reports(tmp_path):
    folder = tmp_path / "reports"
    folder.mkdir()
    names = list(REPORTS)
    source = Reports(**REPORTS)
    read_reports_chunk(folder, source, 0, names[:2])
    read_reports_chunk(folder, source, 2, [*names[2:], None, "gone"])
    assert source.reads == [*names, "gone"]
    return folder


@pytest.fixture
def tokenizer(tmp_path):
    folder = tmp_path / "tokenizer"
    train_wordpiece(REPORTS.values(), 300, folder)
    return folder


def packed(reports, tokenizer, aside, sections=("full",), mask="none", max_tokens=64):
    """What a view's pack says of each record, as words."""
    view = View(tuple(sections), mask, max_tokens, "scratch")
    aside.mkdir()
    for path in report_chunks(reports):
        tokenize_chunk(path, aside, view, tokenizer)
    join_chunks(aside, view, tokenizer)
    pack = open_text(aside)
    cuts = zip(pack.offsets[:-1], pack.offsets[1:], strict=True)
    decode = open_trained(tokenizer).decode
    return [decode(pack.tokens[a:b].tolist()).replace(" .", ".") for a, b in cuts]


def test_each_report_keeps_its_row_its_label_section_and_its_fault(reports):
    assert read_column(reports, "text") == [*REPORTS.values(), "", ""]
    assert read_column(reports, "label_section") == [
        "impression",
        "impression",
        None,
        "last",
        None,
        None,
    ]
    fault = "report unreadable (FileNotFoundError)"
    assert read_column(reports, "fault") == [None] * 5 + [fault]


@pytest.mark.parametrize("damage", [zlib.error("-3"), zipfile.BadZipFile("bad CRC"), EOFError()])
def test_a_damaged_member_of_an_archive_is_a_fault_of_its_record_alone(tmp_path, damage):
    def read_report(reference):
        if reference == "bad":
            raise damage
        return REPORTS[reference]

    source = Reports()
    source.read_report = read_report
    read_reports_chunk(tmp_path, source, 0, ["whole", "bad"])
    fault = f"report unreadable ({type(damage).__name__})"
    assert read_column(tmp_path, "fault") == [None, fault]


def test_reports_that_were_read_are_not_read_again(reports):
    source = Reports(**REPORTS)
    assert read_reports_chunk(reports, source, 0, ["whole", "no_indication"]) == 2
    assert source.reads == []


def test_a_view_holds_its_sections_alone(reports, tokenizer, tmp_path):
    indication = packed(reports, tokenizer, tmp_path / "a", ["indication"])
    assert indication == ["fever.", "", "", "", "", ""]
    both = packed(reports, tokenizer, tmp_path / "b", ["indication", "impression"])
    assert both[0] == "fever. no pneumonia."
    assert both[1] == "pneumonia is likely."
    full = packed(reports, tokenizer, tmp_path / "c")
    assert full[0] == "indication : fever. findings : lungs clear. impression : no pneumonia."
    assert "heart size normal" in full[3]


def test_a_mask_takes_the_words_out_before_they_become_tokens(reports, tokenizer, tmp_path):
    plain = packed(reports, tokenizer, tmp_path / "a", ["impression"])
    masked = packed(reports, tokenizer, tmp_path / "b", ["impression"], mask="label_terms")
    assert "pneumonia" in plain[0] and "pneumonia" in plain[1]
    assert not any("pneumonia" in text for text in masked)
    assert "likely" in masked[1]


def test_missing_sections_are_flagged_and_counted_by_class(reports, tokenizer, tmp_path):
    packed(reports, tokenizer, tmp_path / "a", ["indication"])
    flags = np.load(tmp_path / "a" / "empty.npy")
    assert flags.tolist() == [False, True, True, True, True, True]
    rows = np.array([0, 1, 3, 4])
    label = np.array([0, 1, 1, 0], np.int8)
    assert count_empty(tmp_path / "a", rows, label) == [1, 2]


ODD = {
    "nothing": ("", False),
    "headers alone": ("FINDINGS:\nIMPRESSION:\n", True),
    "crosses": ("XXXX XXXX", True),
    "underscores": ("___ ___", True),
    "very long": ("fever " * 10_000, True),
    "from right to left": ("\u05d3\u05dc\u05e7\u05ea \u0627\u0644\u0631\u0626\u0629", True),
    "emoji": ("fever \U0001f600\U0001f3fd", True),
    "no character": ("a\0b\0", True),
}


@pytest.mark.parametrize(("text", "tokens"), ODD.values(), ids=ODD)
def test_texts_of_any_kind_become_tokens_within_the_limit(text, tokens, tokenizer, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    read_reports_chunk(folder, Reports(odd=text), 0, ["odd"])
    assert read_column(folder, "fault") == [None]
    for sections, mask in product((("full",), ("findings", "impression")), MASKS):
        aside = tmp_path / f"{sections[0]}-{mask}"
        packed(folder, tokenizer, aside, sections, mask, max_tokens=64)
        pack = open_text(aside)
        assert 2 <= len(pack.tokens) <= 64
        if sections == ("full",) and mask == "none":
            assert (len(pack.tokens) > 2) == tokens


def test_an_empty_text_is_two_special_tokens(reports, tokenizer, tmp_path):
    packed(reports, tokenizer, tmp_path / "a", ["indication"])
    assert open_text(tmp_path / "a").lengths.tolist()[1:] == [2] * 5


def test_a_pack_says_what_it_holds_and_leaves_no_chunks(reports, tokenizer, tmp_path):
    packed(reports, tokenizer, tmp_path / "a", max_tokens=9)
    described = json.loads((tmp_path / "a" / "pack.json").read_text())
    assert described["sections"] == ["full"]
    assert described["max_tokens"] == 9
    pack = open_text(tmp_path / "a")
    assert pack.lengths.max() == 9
    assert pack.vocabulary_size == open_trained(tokenizer).get_vocab_size()
    assert not list((tmp_path / "a").glob("*.npz"))


def test_chunks_that_were_tokenised_are_kept_after_a_kill(reports, tokenizer, tmp_path):
    view = View(("full",), "none", 64, "scratch")
    aside = tmp_path / "a"
    aside.mkdir()
    first, second = report_chunks(reports)
    tokenize_chunk(first, aside, view, tokenizer)
    before = (aside / f"{first.stem}.npz").stat().st_mtime_ns
    for path in (first, second):
        tokenize_chunk(path, aside, view, tokenizer)
    assert (aside / f"{first.stem}.npz").stat().st_mtime_ns == before
    join_chunks(aside, view, tokenizer)
    assert len(open_text(aside).lengths) == 6
