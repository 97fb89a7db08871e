"""The peers' own decoders, imported from checkouts that `--peer-dir` names; nothing is copied.

sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning: `DecoderWithAttention`, trained as its train.py
does, searched image by image as its eval.py does (whose own loop stops with an error since PyTorch
1.5: it divides indices to floats).
ruotianluo/ImageCaptioning.pytorch: `Att2in2Model` with its own batched beam search.
"""

import importlib
import importlib.util
import sys
import types
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from in_pytorch import computed_in
from torch import nn
from torch.nn import functional as F

PAD, BOS, EOS = 0, 1, 2
SIZE = 512  # of embedding, LSTM and attention


def find(folders: list[Path]) -> dict[str, Any]:
    """Name of a peer -> its class, of the checkouts that are there."""
    found = {}
    for folder in folders:
        if (folder / "captioning" / "models" / "AttModel.py").is_file():
            found["ruotianluo, Att2in2"] = Ruotianluo(_package_module(folder))
        elif (folder / "models.py").is_file():
            found["sgrvinod"] = Sgrvinod(_models(folder))
        else:
            raise SystemExit(
                f"{folder}: neither a checkout of sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning"
                " (models.py) nor of ruotianluo/ImageCaptioning.pytorch (captioning/)"
            )
    return found


def _models(folder: Path) -> types.ModuleType:
    # Its encoder, which is not used, is torchvision's.
    sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))
    spec = importlib.util.spec_from_file_location("sgrvinod_models", folder / "models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _package_module(folder: Path) -> types.ModuleType:
    # The packages' __init__ import every model and what these need: they are passed over.
    for name in ("captioning", "captioning.models", "captioning.utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    return importlib.import_module("captioning.models.AttModel")


class Sgrvinod:
    def __init__(self, module: types.ModuleType):
        self.module = module

    def make(self, vocabulary: int, features: int) -> nn.Module:
        return self.module.DecoderWithAttention(SIZE, SIZE, SIZE, vocabulary, features)

    def train_step(
        self,
        model: nn.Module,
        annotations: torch.Tensor,
        captions: torch.Tensor,
        number_format: str,
    ) -> Callable[[], None]:
        """One row a caption, <bos> before it; annotations repeated for an image's captions."""
        optimizer = torch.optim.Adam(model.parameters(), 4e-4)
        each = annotations.repeat_interleave(len(captions) // len(annotations), 0)
        begun = torch.cat([torch.full_like(captions[:, :1], BOS), captions], dim=1)
        lengths = 1 + (captions != PAD).sum(1, keepdim=True)
        pack = nn.utils.rnn.pack_padded_sequence

        def take() -> None:
            with computed_in(number_format):
                scores, sorted_captions, decode_lengths, alphas, _ = model(each, begun, lengths)
                said = pack(scores, decode_lengths, batch_first=True).data
                wanted = pack(sorted_captions[:, 1:], decode_lengths, batch_first=True).data
                loss = F.cross_entropy(said, wanted) + ((1.0 - alphas.sum(dim=1)) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            for parameter in model.parameters():
                parameter.grad.data.clamp_(-5.0, 5.0)
            optimizer.step()

        return take

    @torch.inference_mode()
    def beam_search(
        self, model: nn.Module, annotations: torch.Tensor, beam: int, steps: int
    ) -> None:
        model.eval()
        for image in annotations:
            encoder_out = image[None].expand(beam, -1, -1)
            h, c = model.init_hidden_state(encoder_out)
            words = torch.full((beam,), BOS)
            total = torch.zeros(beam, 1)
            said = words[:, None]
            for step in range(steps):
                context, _ = model.attention(encoder_out, h)
                context = model.sigmoid(model.f_beta(h)) * context
                h, c = model.decode_step(torch.cat([model.embedding(words), context], 1), (h, c))
                scores = F.log_softmax(model.fc(h), dim=1)
                scores[:, EOS] = -torch.inf
                scores = total + scores
                best = scores[0] if step == 0 else scores.view(-1)
                total, index = best.topk(beam)
                parents, words = index // scores.shape[1], index % scores.shape[1]
                said = torch.cat([said[parents], words[:, None]], dim=1)
                h, c, total = h[parents], c[parents], total[:, None]


class Ruotianluo:
    def __init__(self, module: types.ModuleType):
        self.module = module

    def make(self, vocabulary: int, features: int) -> nn.Module:
        options = Namespace(
            vocab_size=vocabulary - 1,  # it adds one, for 0: <pad>, <bos> and <eos> alike
            vocab={},
            input_encoding_size=SIZE,
            rnn_size=SIZE,
            att_hid_size=SIZE,
            num_layers=1,
            drop_prob_lm=0.5,
            max_length=20,
            fc_feat_size=features,
            att_feat_size=features,
        )
        return self.module.Att2in2Model(options)

    def train_step(
        self,
        model: nn.Module,
        annotations: torch.Tensor,
        captions: torch.Tensor,
        number_format: str,
    ) -> Callable[[], None]:
        """One row a caption; it repeats the annotations for an image's captions itself."""
        optimizer = torch.optim.Adam(model.parameters(), 4e-4)
        whole = annotations.mean(dim=1)
        wanted = captions.where(captions != EOS, 0)
        begun = torch.cat([torch.zeros_like(wanted[:, :1]), wanted[:, :-1]], dim=1)
        real = captions != PAD

        def take() -> None:
            with computed_in(number_format):
                log_probs = model(whole, annotations, begun)
                chosen = log_probs.gather(2, wanted[..., None])[..., 0]
                loss = -chosen[real].mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(model.parameters(), 0.1)
            optimizer.step()

        return take

    @torch.inference_mode()
    def beam_search(
        self, model: nn.Module, annotations: torch.Tensor, beam: int, steps: int
    ) -> None:
        model.eval()
        model.seq_length = steps
        model.logit.bias[0] = -1e9  # no caption ends
        options = {"beam_size": beam, "sample_n": 1}
        model(annotations.mean(dim=1), annotations, None, opt=options, mode="sample")
