import hashlib
import subprocess
import sys

import pytest

from cxr_ray.data.tokenization import (
    TOKENIZER_FILE,
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


def test_a_missing_pretrained_tokenizer_says_how_to_supply_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"save_pretrained.*--set text\.encoder=DIR"):
        pretrained_tokenize(str(tmp_path / "nowhere"), 16)
