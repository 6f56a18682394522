"""Checkpoints of the real formats, small enough for tests: what one would download elsewhere."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torchvision.models import resnet
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = ("lungs", "clear", "fever", "cough", "no", "heart", "effusion", "the", "is", "of", "##s")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789.,:;()-/")


def resnet_state(name="resnet50", *, seed=0, published=True):
    """A state dict as torchvision publishes it: without batch-norm's counters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = resnet.__dict__[name](weights=None).state_dict()
        for key, value in state.items():
            if key.endswith("running_mean"):
                value.normal_(0, 0.1)
            elif key.endswith("running_var"):
                value.uniform_(0.8, 1.2)
    return {k: v for k, v in state.items() if not (published and k.endswith("_tracked"))}


def write_resnet(path, name="resnet50"):
    """Write a ``.pth`` file and return its path."""
    torch.save(resnet_state(name), path)
    return path


def write_bert(folder, *, width=16):
    """Write a BERT and its tokenizer with save_pretrained and return the folder."""
    vocabulary = [*SPECIAL, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokenizer = Tokenizer(
        models.WordPiece({word: at for at, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=width,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=2 * width,
                max_position_embeddings=128,
            )
        ).save_pretrained(folder)
    return folder
