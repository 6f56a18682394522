"""The paper's twelve models as a careful user would train them without a framework.

One process, a dataset that opens a film and tokenises a report whenever it is asked for one, the
twelve models one after the other, and the shuffle tests as further passes over the test part.
Nothing of cxr_ray is used.

    python benchmarks/plain.py --csv table.csv --images DIR --out DIR

The CSV has a row a patient: image, text, label, part (train, val, test), in_sub (1 where the row
belongs to the sub-sampled data set).
"""

import argparse
import copy
import json
import time
from pathlib import Path

BEGAN = time.perf_counter()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from sklearn import metrics  # noqa: E402
from tokenizers import BertWordPieceTokenizer  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchvision.models import resnet18  # noqa: E402
from torchvision.ops import sigmoid_focal_loss  # noqa: E402
from transformers import BertConfig, BertModel  # noqa: E402

MODALITIES = {"multimodal": ("image", "text"), "image": ("image",), "text": ("text",)}
FOCAL = {"full": (0.85, 1.5), "sub75": (0.95, 2.0)}
FEATURES = 256


class Films(Dataset):
    """A row a patient; a modality may be taken from another row, for the shuffle tests."""

    def __init__(self, rows, images, tokenizer, size, modalities, taken_from=None):
        self.rows, self.images, self.tokenizer = rows.reset_index(drop=True), images, tokenizer
        self.size, self.modalities, self.taken_from = size, modalities, taken_from or {}

    def __len__(self):
        """Count the rows."""
        return len(self.rows)

    def __getitem__(self, index):
        """Read a film and a report."""
        item = {"label": torch.tensor(float(self.rows["label"][index]))}
        if "image" in self.modalities:
            row = self.taken_from.get("image", range(len(self)))[index]
            with Image.open(self.images / self.rows["image"][row]) as film:
                film = film.convert("L").resize((self.size, self.size))
            item["image"] = (torch.from_numpy(np.array(film))[None] / 255 - 0.449) / 0.226
        if "text" in self.modalities:
            row = self.taken_from.get("text", range(len(self)))[index]
            encoding = self.tokenizer.encode(self.rows["text"][row])
            item["ids"] = torch.tensor(encoding.ids)
            item["mask"] = torch.tensor(encoding.attention_mask)
        return item


class Model(nn.Module):
    """An encoder a modality, concatenated, and one linear layer."""

    def __init__(self, modalities, vocabulary, tokens):
        super().__init__()
        if "image" in modalities:
            self.film = resnet18()
            self.film.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
            self.film.fc = nn.Linear(512, FEATURES)
        if "text" in modalities:
            self.bert = BertModel(
                BertConfig(
                    vocab_size=vocabulary,
                    hidden_size=128,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    intermediate_size=512,
                    max_position_embeddings=tokens,
                ),
                add_pooling_layer=False,
            )
            self.report = nn.Linear(128, FEATURES)
        self.modalities = modalities
        self.head = nn.Linear(FEATURES * len(modalities), 1)

    def forward(self, batch):
        """Return logits."""
        features = []
        if "image" in self.modalities:
            features.append(self.film(batch["image"]))
        if "text" in self.modalities:
            states = self.bert(input_ids=batch["ids"], attention_mask=batch["mask"])
            features.append(self.report(states.last_hidden_state[:, 0]))
        return self.head(torch.cat(features, dim=1))[:, 0]


@torch.no_grad()
def predict(model, data, batch):
    model.eval()
    found = [(model(each), each["label"]) for each in DataLoader(data, batch)]
    return (torch.cat(parts) for parts in zip(*found, strict=True))


def figures(logits, labels):
    called = (logits >= 0).numpy()
    return {
        "accuracy": metrics.accuracy_score(labels, called),
        "precision": metrics.precision_score(labels, called, zero_division=0),
        "recall": metrics.recall_score(labels, called),
        "f1": metrics.f1_score(labels, called),
        "auroc": metrics.roc_auc_score(labels, logits),
    }


def train(modality, dataset, loss, table, images, tokenizer, options):
    """Train, test and shuffle one model; returns rows of the table, and seconds."""
    began = time.perf_counter()
    torch.manual_seed(0)
    rows = table if dataset == "full" else table[table["in_sub"] == 1]
    reads = MODALITIES[modality]

    def films(part, **taken_from):
        part = rows[rows["part"] == part]
        return Films(part, images, tokenizer, options.size, reads, taken_from)

    def compute(logits, labels):
        if loss == "bce":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return sigmoid_focal_loss(logits, labels, *FOCAL[dataset], reduction="mean")

    model = Model(reads, tokenizer.get_vocab_size(), options.tokens)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    best, kept, epochs = float("inf"), None, []
    for _ in range(options.epochs):
        epoch_began = time.perf_counter()
        model.train()
        for batch in DataLoader(films("train"), options.batch, shuffle=True):
            optimizer.zero_grad()
            compute(model(batch), batch["label"]).backward()
            optimizer.step()
        value = compute(*predict(model, films("val"), options.batch)).item()
        if value < best:
            best, kept = value, copy.deepcopy(model.state_dict())
        epochs.append(time.perf_counter() - epoch_began)
    model.load_state_dict(kept)
    name = {"model": modality, "dataset": dataset, "loss": loss}
    found = [{**name, "shuffled": "", **figures(*predict(model, films("test"), options.batch))}]
    if len(reads) > 1:
        for shuffled in reads:
            others = np.random.default_rng(0).permutation(len(films("test")))
            data = films("test", **{shuffled: others})
            found.append(
                {**name, "shuffled": shuffled, **figures(*predict(model, data, options.batch))}
            )
    return found, {**name, "epochs": epochs, "seconds": time.perf_counter() - began}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--losses", nargs="+", default=["bce", "focal"])
    options = parser.parse_args()
    table = pd.read_csv(options.csv)
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    training = table.loc[table["part"] == "train", "text"].tolist()
    tokenizer.train_from_iterator(training, vocab_size=4000, show_progress=False)
    tokenizer.enable_truncation(options.tokens)
    tokenizer.enable_padding(length=options.tokens)
    rows, seconds = [], []
    for dataset in ("full", "sub75"):
        for loss in options.losses:
            for modality in MODALITIES:
                found, took = train(
                    modality, dataset, loss, table, options.images, tokenizer, options
                )
                rows += found
                seconds.append(took)
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "table.csv", index=False)
    (options.out / "seconds.json").write_text(
        json.dumps({"models": seconds, "wall": time.perf_counter() - BEGAN}, indent=1)
    )


if __name__ == "__main__":
    main()
