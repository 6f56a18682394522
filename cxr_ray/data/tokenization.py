"""Tokenizers: the text encoder's own, or a WordPiece trained on a cohort's training reports."""

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cxr_ray.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
PADDING = 0
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Tokenize(Protocol):
    """Turns texts into token ids, special tokens included, cut at a length."""

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return one list of ids a text."""


def train_wordpiece(texts: Iterable[str], vocabulary: int, folder: Path) -> None:
    """Train an uncased WordPiece as BERT's (Devlin et al. 2019) and write it to ``folder``.

    The same texts give the same file in every process; they are gone through twice. The vocabulary
    is report text: it must stay under ``prepared/``.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {
        word
        for whole in set(chain.from_iterable(map(_words, texts)))
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(whole))
    }
    first = sorted({letter for word in words for letter in word})
    continuing = sorted({f"##{letter}" for word in words for letter in word[1:]})
    # The trainer numbers letters in the order of a randomly seeded hash map and breaks ties by
    # those numbers; tokens that are named beforehand keep theirs.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=[*_SPECIAL, *first, *continuing],
        limit_alphabet=len(first),
        show_progress=False,
    )
    draft = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    draft.normalizer, draft.pre_tokenizer = normalizer, splitter
    draft.train_from_iterator(texts, trainer)

    known = draft.get_vocab(with_added_tokens=False)
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens(_SPECIAL)
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", known["[SEP]"]), ("[CLS]", known["[CLS]"])
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / TOKENIZER_FILE))


def open_trained(folder: Path) -> "Tokenizer":
    """Read a tokenizer that `train_wordpiece` wrote.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    from tokenizers import Tokenizer

    path = folder / TOKENIZER_FILE
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower one
        raise InputError(
            f"{path} is damaged: remove its folder, and the sweep's command makes it again; models "
            "that read it need the very same one"
        ) from error


@lru_cache(maxsize=1)
def trained_tokenize(folder: Path, max_tokens: int) -> Tokenize:
    """Return a function that tokenises with a tokenizer trained here."""
    return _tokenize_words(open_trained(folder), max_tokens)


@lru_cache(maxsize=1)
def pretrained_tokenize(name: str, max_tokens: int) -> Tokenize:
    """Return a function that tokenises with the tokenizer of a pretrained encoder."""
    tokenizer = load_pretrained_tokenizer(name)
    if _is_bert(tokenizer):
        return _tokenize_words(tokenizer.backend_tokenizer, max_tokens)

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        encoded = tokenizer(list(texts), truncation=True, max_length=max_tokens)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    return tokenize


def _is_bert(tokenizer: Any) -> bool:
    """Whether a text's tokens are those of its words, one after the other, between two marks."""
    from tokenizers import normalizers, pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    return (
        backend is not None
        and isinstance(backend.normalizer, normalizers.BertNormalizer)
        and isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and all(_words(token) == [token] for token in tokenizer.get_added_vocab())
        and tokenizer("").input_ids == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    )


def _tokenize_words(tokenizer: "Tokenizer", max_tokens: int) -> Tokenize:
    """Return a function that gives each distinct word of its texts to a BERT tokenizer once.

    White space ends a word there and leaves no trace, so a word's tokens do not depend on what
    stands around it; reports have few distinct words, and the tokenizer takes most of the time.
    """
    tokenizer.no_padding()
    tokenizer.no_truncation()
    first, last = tokenizer.encode("").ids

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        split = [_words(text) for text in texts]
        distinct = list(set(chain.from_iterable(split)))
        encoded = tokenizer.encode_batch(distinct, add_special_tokens=False)
        tokens = {word: each.ids for word, each in zip(distinct, encoded, strict=True)}
        joined = (chain.from_iterable(map(tokens.__getitem__, words)) for words in split)
        return [[first, *islice(ids, max_tokens - 2), last] for ids in joined]

    return tokenize


def _words(text: str) -> list[str]:
    """Split where BERT does; other white space it deletes, which joins what stands around it."""
    return text.replace("\n", " ").replace("\t", " ").replace("\r", " ").split(" ")


def load_pretrained_tokenizer(name: str) -> Any:
    """Load a tokenizer through transformers' Auto class.

    Raises
    ------
    InputError
        If there is none under that name; says how to supply a local folder.
    """
    send_nothing_home()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise missing_encoder(name, "tokenizer") from error
    except Exception as error:  # tokenizers raises no narrower one for a damaged file
        raise InputError(f"text.encoder {name}: its tokenizer cannot be read: {error}") from error


def send_nothing_home() -> None:
    """Turn the model hub's usage statistics off; it reads the variable when it is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def check_pretrained(name: str) -> None:
    """Look once whether a pretrained encoder is to be had, before anything rests on it.

    Raises
    ------
    InputError
        If neither a local folder nor the model hub has it.
    """
    send_nothing_home()
    from transformers.utils import cached_file

    try:
        cached_file(name, "config.json")
    except (OSError, ValueError) as error:
        raise missing_encoder(name, "config.json") from error


def missing_encoder(name: str, part: str) -> InputError:
    """Say which file or hub name is wanted and how to supply it from a local folder."""
    return InputError(
        f"text.encoder {name}: its {part} is neither in a local folder of that name nor to be had "
        "from the model hub; on a machine that can reach the hub, save it with "
        "`AutoModel.from_pretrained(NAME).save_pretrained(DIR)` and the same for AutoTokenizer, "
        "then give `--set text.encoder=DIR` (config.json, model.safetensors, tokenizer.json)"
    )
