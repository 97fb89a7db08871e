"""The same captioner in PyTorch, as most users would write it, to compare with in the benchmarks.

It computes what `show_attend_tell.models.decoder` does with soft attention, and takes its weights,
so both must give the same loss before anything is timed. Each caption has a row, padded to the
longest of the batch. An LSTMCell runs in a Python loop. Annotations are projected once and repeated
for an image's captions; one product after the loop gives the words' logits.
"""

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

PAD, BOS, EOS = 0, 1, 2


class Captioner(nn.Module):
    """Soft attention over annotation vectors (B, L, F) for captions (B * K, T)."""

    def __init__(self, params: Any, *, dropout: float, annotation_dropout: float):
        super().__init__()
        self.project = _linear(params["projection"])
        self.init_h, self.init_c = _linear(params["init_h"]), _linear(params["init_c"])
        self.embed = nn.Embedding.from_pretrained(_tensor(params["embed"]["embedding"]), False)
        attention = params["attention"]
        self.key, self.query = _linear(attention["key"]), _linear(attention["query"])
        self.score = _linear(attention["score"])
        self.gate = _linear(params["gate"])
        word, state = params["lstm_word"], params["lstm_state"]
        hidden = self.init_h.out_features
        embedding, size = self.embed.embedding_dim, self.project.out_features
        self.lstm = nn.LSTMCell(embedding + size, hidden)
        # Gates are i, f, o, g here and i, f, g, o in PyTorch.
        order = np.concatenate([np.arange(hidden) + hidden * k for k in (0, 1, 3, 2)])
        kernel = np.array(state["kernel"])
        inputs = np.concatenate([np.array(word["kernel"]), kernel[hidden:]])
        with torch.no_grad():
            self.lstm.weight_ih.copy_(_tensor(inputs.T[order]))
            self.lstm.weight_hh.copy_(_tensor(kernel[:hidden].T[order]))
            self.lstm.bias_ih.copy_(_tensor(np.array(word["bias"])[order]))
            self.lstm.bias_hh.zero_()
        self.output_h, self.output_z = _linear(params["output_h"]), _linear(params["output_z"])
        self.output_bias = nn.Parameter(_tensor(params["output_bias"]))
        self.dropout, self.annotation_dropout = nn.Dropout(dropout), nn.Dropout(annotation_dropout)

    def forward(self, annotations: torch.Tensor, captions: torch.Tensor) -> tuple:
        """Logits (N, T, V) and alpha (N, T, L) of N = B * K captions (N, T)."""
        a, keys, h, c = self.memory(annotations, len(captions) // len(annotations))
        start = torch.full_like(captions[:, :1], BOS)
        embedded = self.dropout(self.embed(torch.cat([start, captions[:, :-1]], dim=1)))
        hs, zs, alphas = [], [], []
        for t in range(captions.shape[1]):
            h, c, z, alpha = self.step(a, keys, h, c, embedded[:, t])
            hs.append(h)
            zs.append(z)
            alphas.append(alpha)
        logits = self.output(embedded, torch.stack(hs, 1), torch.stack(zs, 1))
        return logits, torch.stack(alphas, 1)

    def memory(self, annotations: torch.Tensor, repeats: int) -> tuple:
        """What the images give: annotations, keys and the initial state, a row for each caption."""
        a = self.project(self.annotation_dropout(annotations))
        mean = a.mean(dim=1)
        state = torch.tanh(self.init_h(mean)), torch.tanh(self.init_c(mean))
        return tuple(x.repeat_interleave(repeats, 0) for x in (a, self.key(a), *state))

    def step(self, a, keys, h, c, embedded) -> tuple:
        scores = self.score(torch.tanh(keys + self.query(h)[:, None])).squeeze(2)
        alpha = F.softmax(scores, dim=1)
        context = torch.bmm(alpha[:, None], a).squeeze(1)
        z = torch.sigmoid(self.gate(h)) * context
        h, c = self.lstm(torch.cat([embedded, z], dim=1), (h, c))
        return h, c, z, alpha

    def output(self, embedded, h, z) -> torch.Tensor:
        hidden = torch.tanh(embedded + self.output_h(h) + self.output_z(z))
        return F.linear(self.dropout(hidden), self.embed.weight, self.output_bias)


def from_decoder(decoder: Any, *, dropout: float, annotation_dropout: float) -> Captioner:
    """The contestant with the weights of our decoder (projected, tied, gated, with output tanh)."""
    params = nnx.to_pure_dict(nnx.state(decoder, nnx.Param))
    return Captioner(params, dropout=dropout, annotation_dropout=annotation_dropout)


def computed_in(number_format: str) -> AbstractContextManager:
    """The context in which PyTorch's products are computed in a format, as its users choose it."""
    if number_format == "float32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=getattr(torch, number_format))


def loss_of(
    model: nn.Module,
    annotations: torch.Tensor,
    captions: torch.Tensor,
    *,
    doubly_stochastic: float,
    label_smoothing: float,
) -> torch.Tensor:
    """The loss of `objectives.soft_loss`."""
    logits, alpha = model(annotations, captions)
    real = captions != PAD
    nll = F.cross_entropy(logits[real], captions[real], label_smoothing=label_smoothing)
    paid = (alpha * real[..., None]).sum(dim=1)
    return nll + doubly_stochastic * ((1 - paid) ** 2).sum() / real.sum()


@torch.inference_mode()
def beam_search(model: Captioner, annotations: torch.Tensor, beam: int, steps: int) -> torch.Tensor:
    """The words (B, T) of the best of `beam` hypotheses after `steps` forced steps (no <eos>)."""
    images = len(annotations)
    a, keys, h, c = model.memory(annotations, beam)
    words = torch.full((images * beam,), BOS)
    log_probs = torch.zeros(images, beam).index_fill_(1, torch.arange(1, beam), -torch.inf)
    said = torch.zeros(images, beam, 0, dtype=torch.long)
    first = torch.arange(images)[:, None] * beam
    for _ in range(steps):
        embedded = model.embed(words)
        h, c, z, _ = model.step(a, keys, h, c, embedded)
        logits = F.log_softmax(model.output(embedded, h, z), dim=-1)
        logits[:, EOS] = -torch.inf
        total = log_probs[..., None] + logits.view(images, beam, -1)
        log_probs, index = total.view(images, -1).topk(beam)
        parents, chosen = index // logits.shape[1], index % logits.shape[1]
        rows = (first + parents).flatten()
        h, c, words = h[rows], c[rows], chosen.flatten()
        said = torch.cat([said.flatten(0, 1)[rows].view(images, beam, -1), chosen[..., None]], 2)
    return said[:, 0]


def _tensor(array: Any) -> torch.Tensor:
    return torch.tensor(np.array(array))


def _linear(params: Any) -> nn.Linear:
    kernel = np.array(params["kernel"])
    made = nn.Linear(*kernel.shape, bias="bias" in params)
    with torch.no_grad():
        made.weight.copy_(_tensor(kernel.T))
        if "bias" in params:
            made.bias.copy_(_tensor(params["bias"]))
    return made
