"""VGG-19 and ResNets with random weights: ours, PyTorch's, and the bound set by their products.

The weights do not affect the speed. The tests use the same ones to compare both implementations.
"""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import nnx
from timing import PRODUCT_NAME, interleaved, make_product, print_table, product_speed, spread

from show_attend_tell import settings
from show_attend_tell.models.encoders import ImageEncoder, make_encoder

IMAGES, SIZE, BATCH = 16, 224, 16
VGG19 = (64, 64, "pool", 128, 128, "pool", *[256] * 4, "pool", *[512] * 4, "pool", *[512] * 4)
RESNETS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
NAMES = ("vgg19", *RESNETS)


def random_weights(name: str) -> dict[str, np.ndarray]:
    """A state dictionary without classifier, by torchvision's names; the same on every machine.

    Scaled so that activations neither vanish nor grow from layer to layer.
    """
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}

    def normal(shape: tuple[int, ...], deviation: float) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(deviation)

    def convolution(layer: str, inputs: int, outputs: int, side: int) -> None:
        shape = (outputs, inputs, side, side)
        arrays[f"{layer}.weight"] = normal(shape, math.sqrt(2 / (inputs * side**2)))

    def norm(layer: str, channels: int, scale: float = 1.0) -> None:
        arrays[f"{layer}.weight"] = scale * (0.5 + rng.random(channels, np.float32))
        arrays[f"{layer}.bias"] = normal((channels,), 0.1)
        arrays[f"{layer}.running_mean"] = normal((channels,), 0.1)
        arrays[f"{layer}.running_var"] = 0.5 + rng.random(channels, np.float32)
        arrays[f"{layer}.num_batches_tracked"] = np.array(1)

    if name == "vgg19":
        index, inputs = 0, 3
        for channels in VGG19:
            if channels != "pool":
                convolution(f"features.{index}", inputs, channels, 3)
                arrays[f"features.{index}.bias"] = normal((channels,), 0.1)
                inputs = channels
            index += 1 if channels == "pool" else 2
        return arrays
    convolution("conv1", 3, 64, 7)
    norm("bn1", 64)
    inputs = 64
    for stage, blocks in enumerate(RESNETS[name]):
        width = 64 << stage
        for i in range(blocks):
            block = f"layer{stage + 1}.{i}"
            convolution(f"{block}.conv1", inputs, width, 1)
            norm(f"{block}.bn1", width)
            convolution(f"{block}.conv2", width, width, 3)
            norm(f"{block}.bn2", width)
            convolution(f"{block}.conv3", width, 4 * width, 1)
            norm(f"{block}.bn3", 4 * width, 0.3)
            if i == 0:
                convolution(f"{block}.downsample.0", inputs, 4 * width, 1)
                norm(f"{block}.downsample.1", 4 * width)
            inputs = 4 * width
    return arrays


def in_pytorch(name: str) -> Callable[[Any], dict[str, Any]]:
    """The network in PyTorch, with the random weights: normalised images to maps by stage."""
    import torch
    from torch import nn

    def normed(inputs: int, outputs: int, side: int, stride: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
        return [conv, nn.BatchNorm2d(outputs)]

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int, first: bool):
            super().__init__()
            self.conv1, self.bn1 = normed(inputs, width, 1)
            self.conv2, self.bn2 = normed(width, width, 3, stride)
            self.conv3, self.bn3 = normed(width, 4 * width, 1)
            self.downsample = nn.Sequential(*normed(inputs, 4 * width, 1, stride) * first)

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            y = torch.relu(self.bn2(self.conv2(y)))
            return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))

    model = nn.Module()
    if name == "vgg19":
        layers, inputs, ends = [], 3, []
        for channels in (*VGG19, "pool"):
            if channels == "pool":
                ends.append(len(layers))
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
        model.features = nn.Sequential(*layers)
        starts = [0, *ends]
        parts = {
            f"conv{i + 1}": model.features[start:end]
            for i, (start, end) in enumerate(zip(starts, ends, strict=False))
        }
    else:
        model.conv1, model.bn1 = normed(3, 64, 7, 2)
        parts = {"stem": nn.Sequential(model.conv1, model.bn1, nn.ReLU())}
        for stage, blocks in enumerate(RESNETS[name]):
            width = 64 << stage
            inputs = 2 * width if stage else 64
            layers = [Bottleneck(inputs, width, 2 if stage else 1, True)]
            layers += [Bottleneck(4 * width, width, 1, False) for _ in range(blocks - 1)]
            layer = nn.Sequential(*layers)
            setattr(model, f"layer{stage + 1}", layer)
            pooled = [] if stage else [nn.MaxPool2d(3, 2, 1)]
            parts[f"layer{stage + 1}"] = nn.Sequential(*pooled, layer)
    weights = {key: torch.from_numpy(value) for key, value in random_weights(name).items()}
    model.load_state_dict(weights)
    for part in (model, *parts.values()):
        part.eval()

    @torch.inference_mode()
    def maps(x):
        found = {}
        for stage, part in parts.items():
            x = found[stage] = part(x)
        return found

    return maps


def normalised(images: np.ndarray) -> np.ndarray:
    """(B, 3, S, S) of (B, S, S, 3), as torchvision normalises."""
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    values = (images / np.float32(255) - np.float32(mean)) / np.float32(deviation)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def make(name: str, size: int, folder: Path, **options: Any) -> ImageEncoder:
    """Our encoder with the random weights, by way of a file."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        safetensors.numpy.save_file(random_weights(name), path)
    made = settings.ImageEncoder(name=name, image_size=size, weights=str(path), **options)
    return make_encoder(made, seed=0)


def run(rounds: int, torch: bool) -> tuple[dict[str, Any], str]:
    """Times only the networks; returns the figures, and the table as Markdown."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, SIZE, SIZE, 3), np.uint8)
    flops, contestants = {}, {PRODUCT_NAME: make_product()}
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            # If all of it is trained, every convolution is computed the plain way.
            plain = make(name, SIZE, Path(folder), trainable_from="all")
            one = nnx.jit(lambda encoder, image: encoder(image)).lower(plain, images[:1])
            flops[name] = one.cost_analysis()["flops"]
            encoder = make(name, SIZE, Path(folder))
            contestants[name] = ours(encoder, images)
            if torch:
                contestants[f"{name}, PyTorch"] = theirs(name, images)
    seconds = interleaved(contestants, rounds)
    speed = product_speed(seconds.pop(PRODUCT_NAME))
    figures, rows = {}, []
    for name, times in seconds.items():
        count = flops[name.split(",")[0]] * IMAGES
        limit = times * speed / count
        figures[name] = {"seconds": times.tolist(), "flops": count, "limits": limit.tolist()}
        cells = [spread(times / IMAGES * 1e3, 1), spread(count / times / 1e9, 0), spread(limit)]
        rows.append([name, f"{count / IMAGES / 1e9:.2f}", *cells])
    title = (
        f"Annotation vectors of {IMAGES} images of {SIZE} pixels, random weights; the limit is the "
        f"time of the FLOPs at the speed of one large product ({np.median(speed) / 1e9:.0f} "
        f"GFLOP/s), {rounds} rounds, median (least to most)"
    )
    columns = ["", "GFLOP an image", "ms an image", "GFLOP/s", "time, times the limit"]
    return {"setting": title, "rows": figures}, print_table(title, columns, rows)


def ours(encoder: ImageEncoder, images: np.ndarray) -> Callable[[], None]:
    graph, state = nnx.split(encoder)
    encode = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    return lambda: jax.block_until_ready(encode(state, images))


def theirs(name: str, images: np.ndarray) -> Callable[[], None]:
    import torch

    maps = in_pytorch(name)

    def take() -> None:
        for start in range(0, IMAGES, BATCH):
            maps(torch.from_numpy(normalised(images[start : start + BATCH])))

    return take
