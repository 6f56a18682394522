import pickle

import pytest
import torch
from local_checkpoints import write_bert
from safetensors.torch import load_file, save_file
from transformers import BertModel

from cxr_ray.config.schema import TextConfig
from cxr_ray.data.tokenization import load_pretrained_tokenizer, pretrained_tokenize
from cxr_ray.errors import InputError
from cxr_ray.models.text import TextEncoder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert"))


def padded(*lengths, more=0):
    rng = torch.Generator().manual_seed(0)
    width = max(lengths) + more
    tokens = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(5, 40, (length,), generator=rng)
    attention = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return tokens, attention


def test_a_bert_saved_with_save_pretrained_loads_from_its_folder(bert):
    model = TextEncoder(TextConfig(encoder=str(bert), features=8, max_tokens=64), vocabulary_size=0)
    wanted = BertModel.from_pretrained(bert).state_dict()
    loaded = model.bert.state_dict()
    assert loaded.keys() == {name for name in wanted if not name.startswith("pooler.")}
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.items())
    assert model(*padded(5, 9)).shape == (2, 8)


def test_a_pretrained_tokenizer_loads_from_the_same_folder(bert):
    ids = pretrained_tokenize(str(bert), 6)(["Lungs clear", "fever " * 20, ""])
    tokenizer = load_pretrained_tokenizer(str(bert))
    assert tokenizer.convert_ids_to_tokens(ids[0]) == ["[CLS]", "lungs", "clear", "[SEP]"]
    assert [len(row) for row in ids] == [4, 6, 2]


def test_an_absent_checkpoint_says_how_to_supply_one(tmp_path):
    with pytest.raises(InputError, match=r"text\.encoder .*save_pretrained.*--set text\.encoder="):
        TextEncoder(TextConfig(encoder=str(tmp_path / "absent")), vocabulary_size=0)


def test_a_folder_without_weights_says_how_to_supply_them(tmp_path, bert):
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    with pytest.raises(InputError, match="save_pretrained"):
        TextEncoder(TextConfig(encoder=str(tmp_path)), vocabulary_size=0)


def lacking_a_tensor(state):
    return {name: value for name, value in state.items() if "layer.1.output.dense" not in name}


def of_another_model(state):
    return {"conv.weight": torch.zeros(3, 3)}


def of_another_width(state):
    return {name: torch.zeros(3, 3) for name in state}


@pytest.mark.parametrize("change", [lacking_a_tensor, of_another_model, of_another_width])
def test_weights_that_leave_a_part_random_are_refused_with_one_sentence(tmp_path, bert, change):
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    state = change(load_file(bert / "model.safetensors"))
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"text\.encoder .*: its weights (lack|are no whole)"):
        TextEncoder(TextConfig(encoder=str(tmp_path)), vocabulary_size=0)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", pickle.dumps({"a": print}), b"\x80\2}q\0."])
def test_a_pickle_of_more_than_tensors_is_no_checkpoint(tmp_path, bert, content):
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"text\.encoder "):
        TextEncoder(TextConfig(encoder=str(tmp_path)), vocabulary_size=0)


def test_a_truncated_checkpoint_is_refused_with_one_sentence(tmp_path, bert):
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    weights = (bert / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="no whole safetensors file"):
        TextEncoder(TextConfig(encoder=str(tmp_path)), vocabulary_size=0)


@pytest.mark.parametrize(
    ("max_tokens", "vocabulary", "said"),
    [
        (129, 50, r"text\.max_tokens 129: .* reads at most 128"),
        (128, 10**5, "its tokenizer knows 100000 tokens and its checkpoint"),
    ],
)
def test_texts_beyond_what_a_checkpoint_embeds_are_refused(bert, max_tokens, vocabulary, said):
    with pytest.raises(InputError, match=said):
        TextEncoder(TextConfig(encoder=str(bert), max_tokens=max_tokens), vocabulary)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padding_changes_no_features(pooling):
    torch.manual_seed(0)
    config = TextConfig(encoder="scratch", width=16, layers=2, pooling=pooling, max_tokens=64)
    model = TextEncoder(config, 50).eval().double()
    with torch.no_grad():
        assert torch.allclose(model(*padded(3, 9)), model(*padded(3, 9, more=20)), atol=1e-12)


def test_every_weight_of_a_text_encoder_takes_a_gradient():
    config = TextConfig(encoder="scratch", width=16, layers=1, max_tokens=16)
    model = TextEncoder(config, 50)
    model(*padded(4, 8)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
