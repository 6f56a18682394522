import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.data.reports import name_lines
from cxr_ray.data.tokenization import train_wordpiece, trained_tokenize
from cxr_ray.data.word_places import name_sections, place_words


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_wordpiece(["Fever and cough. No fever; chills, coughing."] * 3, 60, folder)
    return folder


def letters(texts):
    """A tokenizer of another kind: one special token at the end, a token a letter."""
    return [[ord(letter) for letter in "".join(text.split())] + [1] for text in texts]


@given(st.text(alphabet="fevr cough.\n\t\0肺", max_size=40))
def test_every_token_belongs_to_one_word_or_is_special(tokenizer, text):
    tokenize = trained_tokenize(tokenizer, 512)
    (ids,) = tokenize([text])
    placed = place_words(text, tokenize)
    assert placed.leading + placed.trailing == 2
    assert placed.leading == 1 or len(ids) == 2
    assert placed.tokens.sum() == len(ids) - 2
    for (start, stop), count in zip(placed.spans, placed.tokens, strict=True):
        assert len(tokenize([text[start:stop]])[0]) - 2 == count


def test_words_get_the_sum_of_their_tokens_with_any_tokenizer():
    placed = place_words("No fever", letters)
    assert (placed.leading, placed.trailing) == (0, 1)
    assert placed.tokens.tolist() == [2, 5]
    assert placed.sum(np.array([1.0, 2, 3, 4, 5, 6, 7, 100])).tolist() == [3, 25]


def test_words_behind_the_last_token_that_is_read_are_left_out(tokenizer):
    text = "fever and cough " * 50
    placed = place_words(text, trained_tokenize(tokenizer, 12))
    assert placed.tokens.sum() == 10
    assert text[slice(*placed.spans[0])] == "fever"
    assert len(placed.spans) <= 10


def test_a_text_without_words_has_none(tokenizer):
    placed = place_words(" \n", trained_tokenize(tokenizer, 12))
    assert placed.tokens.size == 0 and placed.sum(np.zeros(2)).size == 0
    assert name_sections(" \n", placed.spans, ("full",)) == []


REPORT = "FINAL REPORT\r\n INDICATION:  Fever,\r\n cough.\r\n\r\n FINDINGS:\r\n\r\n None.\r\n"


def test_each_line_of_a_report_belongs_to_its_section():
    assert name_lines(REPORT) == ["other", *["indication"] * 3, *["findings"] * 3]
    placed = place_words(REPORT, letters)
    assert name_sections(REPORT, placed.spans, ("full",)) == [
        *["other"] * 2, *["indication"] * 3, *["findings"] * 2,
    ]  # fmt: skip


def test_a_view_of_some_sections_has_a_line_for_each():
    text, spans = "None seen.\nFever.", np.array([[0, 4], [5, 10], [11, 17]])
    named = name_sections(text, spans, ("findings", "indication"))
    assert named == ["findings", "findings", "indication"]
    assert name_sections(text, spans, ("findings",)) == ["other"] * 3
