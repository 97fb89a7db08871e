"""Attention records made by hand, for the tests of records, statistics and pictures."""

import numpy as np

from show_attend_tell.inference.attention_record import AttentionRecord

ONE, TWO = [1, 0, 0, 0], [0, 1, 0, 0]
UNIFORM = [0.25] * 4


def even(cells):
    """Centres of evenly spaced cells."""
    return (np.arange(cells) + 0.5) / cells


def record(alpha, tokens=None, grid=(2, 2), **changes) -> AttentionRecord:
    """A record of an image with these weights."""
    alpha = np.array(alpha, np.float32)
    tokens = tokens or (*["word"] * (len(alpha) - 1), "<eos>")
    fields = dict(
        image_id="a/b.jpg",
        tokens=tokens,
        alpha=alpha,
        beta=np.full(len(alpha), 0.25, np.float32),
        location=alpha.argmax(axis=1),
        context="expected",
        row_centres=even(grid[0]),
        column_centres=even(grid[1]),
        original_size=(30, 40),
        image_side=16,
        score=-1.5,
        log_prob=-3.0,
        centres="measured",
    )
    return AttentionRecord(**(fields | changes))


def sentence(alpha, source, tokens, **changes) -> AttentionRecord:
    """A record of a sentence."""
    return record(alpha, tokens, (1, len(source)), source=source, **changes)
