"""Count and time what padding costs, on the lengths of real reports.

    python benchmarks/text.py

The lengths are those of 2,653 reports of Indiana University's collection (Open-i; Demner-Fushman et
al. 2016), special tokens included, through a WordPiece of 4,000 pieces that was trained on them.
Batches are those of training; fixed padding is what a tokenizer's ``padding="max_length"`` gives.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rows import Row, machine, show

from cxr_ray.config.schema import TextConfig
from cxr_ray.data.order import epoch_batches
from cxr_ray.models.text import TextEncoder

# Tokens at each 2.5 % of the reports up to 97.5 %, and at the shares of the longest.
SHARES = np.concatenate([np.arange(0, 100, 2.5), [99, 99.5, 99.8, 100]]) / 100
TOKENS = np.array(
    [
        *(2, 23, 33, 36, 38, 40, 42, 43, 45, 47, 49, 50, 51, 53, 54, 55, 56, 57, 58, 59),
        *(61, 62, 63, 65, 66, 67, 69, 71, 73, 75, 77, 80, 82, 86, 88, 93, 98, 104, 116, 132),
        *(152, 174, 206, 289),
    ]
)
TRAINING = 16_879  # 70 % of the paper's 24,113 records
LIMITS = (128, 512)
BATCH, VOCABULARY, LAYERS, WIDTH = 64, 4000, 2, 128
MOST = 1.1
TIMED, TIMED_FIXED = 12, 2  # batches


def measure(scratch: Path) -> list[Row]:
    """Count tokens of three epochs, and time a BERT's training steps on a part of one."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    drawn = np.rint(np.interp(rng.random(TRAINING), SHARES, TOKENS)).astype(np.int64)
    rows = []
    for limit in LIMITS:
        lengths = np.minimum(drawn, limit)
        batches = [
            lengths[each]
            for epoch in range(3)
            for each in epoch_batches(
                np.arange(TRAINING), BATCH, seed=0, epoch=epoch, lengths=lengths
            )
        ]
        batches.sort(key=max)
        timed = batches[len(batches) // TIMED // 2 :: len(batches) // TIMED][:TIMED]
        computed = sum(len(each) * int(each.max()) for each in batches)
        rows += [
            Row(
                f"text: padding, at most {limit} tokens",
                f"tokens computed / tokens real over 3 epochs of {TRAINING:,} reports in batches "
                f"of {BATCH}",
                computed / (3 * int(lengths.sum())),
                at_most=MOST,
            ),
            Row(
                f"text: speed-up over padding to {limit}",
                f"training steps of a BERT of {LAYERS} layers and width {WIDTH}, in records/s; "
                f"tokens alone would give {3 * TRAINING * limit / computed:.1f}",
                speed_up(timed, limit),
                "times",
            ),
        ]
    return rows


def speed_up(batches: list[NDArray[np.int64]], limit: int) -> float:
    """Time batches padded each to its longest, and some of them padded to ``limit``."""
    config = TextConfig(
        encoder="scratch", layers=LAYERS, width=WIDTH, max_tokens=limit, vocabulary=VOCABULARY
    )
    model = TextEncoder(config, VOCABULARY)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step(lengths: NDArray[np.int64], width: int) -> None:
        attention = (torch.arange(width) < torch.from_numpy(lengths)[:, None]).long()
        tokens = attention * torch.randint(5, VOCABULARY, attention.shape)
        optimizer.zero_grad()
        model(tokens, attention).square().mean().backward()
        optimizer.step()

    def seconds(some: list[NDArray[np.int64]], width: int | None) -> float:
        began = time.process_time()  # of this one thread, whatever else the machine does
        for lengths in some:
            step(lengths, width or int(lengths.max()))
        return (time.process_time() - began) / sum(map(len, some))

    step(batches[0], int(batches[0].max()))
    # in turns, of which the fastest counts
    rounds = [(seconds(batches, None), seconds(batches[:TIMED_FIXED], limit)) for _ in range(3)]
    own, fixed = np.min(rounds, axis=0)
    return float(fixed / own)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print(show(measure(Path())))
    print(machine())
