"""Text encoders: any BERT-like checkpoint through transformers, or a small BERT from scratch."""

import pickle
from typing import Any

import torch
from torch import Tensor, nn

from cxr_ray.config.schema import TextConfig
from cxr_ray.data.tokenization import missing_encoder, send_nothing_home
from cxr_ray.errors import InputError

# What transformers and torch raise for weights that are damaged, or of another model.
_NO_CHECKPOINT = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
)


class TextEncoder(nn.Module):
    """(B, L) token ids and attention mask to (B, features).

    A frozen one takes no gradient and stays in evaluation mode but for its last layer. Without
    `pretrained` it has a checkpoint's architecture and random weights.
    """

    def __init__(
        self, config: TextConfig, vocabulary_size: int, *, pretrained: bool = True
    ) -> None:
        super().__init__()
        if config.encoder == "scratch":
            self.bert: Any = _small_bert(config, vocabulary_size)
        else:
            self.bert = _load_checkpoint(config.encoder, weights=pretrained)
            _check_limits(self.bert.config, config, vocabulary_size)
        self.pooling = config.pooling
        self.frozen = config.freeze == "all"
        if self.frozen:
            self.bert.requires_grad_(False)
        self.fc = nn.Linear(self.bert.config.hidden_size, config.features)
        self.train()

    def train(self, mode: bool = True) -> "TextEncoder":
        """Switch the mode of what is not frozen."""
        super().train(mode)
        if self.frozen:
            self.bert.eval()
        return self

    def forward(
        self, tokens: Tensor | None, attention: Tensor | None, prefix: Tensor | None = None
    ) -> Tensor:
        """Encode a batch of padded token ids, or what `prefix` made of them."""
        if prefix is None:
            assert tokens is not None and attention is not None
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                prefix = self.prefix(tokens, attention)
        features: Tensor = self.fc(prefix)
        return features

    def prefix(self, tokens: Tensor, attention: Tensor) -> Tensor:
        """Pool what the BERT makes of a batch of padded token ids: (B, width)."""
        return self._pool(self.bert(input_ids=tokens, attention_mask=attention), attention)

    def embed(self, tokens: Tensor) -> Tensor:
        """Look up the embeddings of token ids, without their positions: (B, L, width)."""
        embedded: Tensor = self.bert.get_input_embeddings()(tokens)
        return embedded

    def encode_embedded(self, embedded: Tensor, attention: Tensor) -> Tensor:
        """Encode what `embed` returned, or points between such."""
        found = self.bert(inputs_embeds=embedded, attention_mask=attention)
        features: Tensor = self.fc(self._pool(found, attention))
        return features

    def _pool(self, found: Any, attention: Tensor) -> Tensor:
        states = found.last_hidden_state
        pooled: Tensor
        if self.pooling == "first":
            pooled = states[:, 0]
        else:
            weight = attention.unsqueeze(-1).to(states.dtype)
            pooled = (states * weight).sum(dim=1) / weight.sum(dim=1)
        return pooled


def _small_bert(config: TextConfig, vocabulary_size: int) -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            vocab_size=vocabulary_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.width,
            max_position_embeddings=config.max_tokens,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
        ),
        add_pooling_layer=False,
    )


def _load_checkpoint(name: str, *, weights: bool) -> nn.Module:
    send_nothing_home()
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel

    model: nn.Module
    try:
        if weights:
            model, found = AutoModel.from_pretrained(
                name, dtype=torch.float32, weights_only=True, output_loading_info=True
            )
            _check_loaded(name, found)
        else:
            described = AutoConfig.from_pretrained(name)
            model = AutoModel.from_config(described, dtype=torch.float32)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise missing_encoder(name, "checkpoint") from error
    except SafetensorError as error:
        raise InputError(f"text.encoder {name}: no whole safetensors file") from error
    except _NO_CHECKPOINT as error:
        raise InputError(
            f"text.encoder {name}: its weights are no whole checkpoint of tensors only, or not of "
            "the architecture that its config.json describes"
        ) from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]  # its parameters would never see a gradient, which DDP refuses
    return model


def _check_loaded(name: str, found: dict[str, Any]) -> None:
    """Refuse weights that leave a part of the encoder random; a pooler is not read."""
    lacking = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    lacking += sorted(str(key) for key in found.get("mismatched_keys", ()))
    if lacking:
        raise InputError(
            f"text.encoder {name}: its weights lack {lacking[0]}, in this shape, which the "
            "architecture in its config.json has"
        )


def _check_limits(described: Any, config: TextConfig, vocabulary_size: int) -> None:
    """Refuse texts that the checkpoint has no embeddings for."""
    longest = getattr(described, "max_position_embeddings", config.max_tokens)
    if config.max_tokens > longest:
        raise InputError(
            f"text.max_tokens {config.max_tokens}: {config.encoder} reads at most {longest}"
        )
    if vocabulary_size > described.vocab_size:
        raise InputError(
            f"text.encoder {config.encoder}: its tokenizer knows {vocabulary_size} tokens and its "
            f"checkpoint {described.vocab_size}; they should come from one model"
        )
