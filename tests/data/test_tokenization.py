import hashlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_checkpoints import write_bert
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cxr_ray.data.tokenization import (
    TOKENIZER_FILE,
    load_pretrained_tokenizer,
    open_trained,
    pretrained_tokenize,
    train_wordpiece,
    trained_tokenize,
)
from cxr_ray.errors import InputError

TEXTS = [
    "FINDINGS: The lungs are clear. No effusion.",
    "IMPRESSION: Left basilar opacity, likely pneumonia; fever and cough.",
    "Wires and valves are unchanged. Heart size normal, lungs clear.",
]

TRAIN = """
import sys
from pathlib import Path
import numpy as np
from cxr_ray.data.tokenization import train_wordpiece

rng = np.random.default_rng(0)
words = ["".join(rng.choice(list("abcdefghij"), size=rng.integers(2, 8))) for _ in range(300)]
train_wordpiece([" ".join(rng.choice(words, size=9)) for _ in range(150)], 250, Path(sys.argv[1]))
"""


def test_a_wordpiece_trained_in_two_processes_is_the_same_file(tmp_path):
    digests = set()
    for name in ("one", "two", "three"):
        subprocess.run([sys.executable, "-c", TRAIN, str(tmp_path / name)], check=True)
        digests.add(hashlib.sha256((tmp_path / name / TOKENIZER_FILE).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_wordpiece_cuts_words_into_pieces_that_it_knows_between_its_special_tokens(tmp_path):
    train_wordpiece(TEXTS, 200, tmp_path)
    encoding = open_trained(tmp_path).encode("LUNGS clear-fever xylophones 7")
    assert encoding.tokens[0] == "[CLS]"
    assert encoding.tokens[-1] == "[SEP]"
    assert "lungs" in encoding.tokens
    assert "[UNK]" in encoding.tokens  # no digit was ever seen
    assert open_trained(tmp_path).get_vocab_size() <= 200
    assert open_trained(tmp_path).token_to_id("[PAD]") == 0


def test_letters_are_plain_tokens_and_only_the_five_of_bert_are_special(tmp_path):
    train_wordpiece(TEXTS, 200, tmp_path)
    added = {token.content for token in open_trained(tmp_path).get_added_tokens_decoder().values()}
    assert added == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


def test_long_texts_are_cut_at_the_given_number_of_tokens_and_keep_their_end_mark(tmp_path):
    train_wordpiece(TEXTS, 200, tmp_path)
    ids = trained_tokenize(tmp_path, 8)([" ".join(TEXTS), ""])
    end = open_trained(tmp_path).token_to_id("[SEP]")
    assert [len(row) for row in ids] == [8, 2]
    assert [row[-1] for row in ids] == [end, end]


def test_an_alphabet_larger_than_the_vocabulary_still_trains(tmp_path):
    train_wordpiece(["".join(map(chr, range(0x4E00, 0x4E00 + 1500)))], 100, tmp_path)
    assert open_trained(tmp_path).get_vocab_size() > 1500


# white space of every kind, also such as BERT deletes; accents; marks that stand for themselves
ODD = st.text(
    st.sampled_from("aclnsu.,-é\u0301\u65e5 \t\n\r\x0b\x1c\x85\xa0\u2028\ufffd"), max_size=30
)
PIECES = st.one_of(
    ODD, st.sampled_from(["lungs", "clear.", "[SEP]", "x[MASK]y", "\r\n", "z" * 101])
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer trained here, and two pretrained ones: BERT's, and one of bytes with spaces."""
    trained, bert, other = (tmp_path_factory.mktemp(name) for name in ("trained", "bert", "bytes"))
    train_wordpiece(TEXTS, 200, trained)
    write_bert(bert)
    pieces = Tokenizer(models.BPE({chr(n): n for n in range(33, 400)}, []))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=pieces).save_pretrained(other)
    return trained, bert, other


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=8).map(" ".join), min_size=1, max_size=4))
def test_a_text_has_the_tokens_that_its_tokenizer_gives_to_the_whole_of_it(folders, texts):
    trained, *pretrained = folders
    whole = open_trained(trained)
    whole.enable_truncation(12)
    assert trained_tokenize(trained, 12)(texts) == [whole.encode(text).ids for text in texts]
    for folder in pretrained:
        wanted = load_pretrained_tokenizer(str(folder))(texts, truncation=True, max_length=12)
        assert pretrained_tokenize(str(folder), 12)(texts) == wanted.input_ids


def test_a_missing_pretrained_tokenizer_says_how_to_supply_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"save_pretrained.*--set text\.encoder=DIR"):
        pretrained_tokenize(str(tmp_path / "nowhere"), 16)
