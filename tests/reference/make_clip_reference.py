"""Makes `clip.npz`: what transformers makes of a tiny CLIP, its tokenizer and a few texts.

Needs PyTorch and transformers:
    PYTHONPATH=. python tests/reference/make_clip_reference.py

Weights, texts and image are those of tests/clips.py.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))
import clips  # noqa: E402  (found by the line before)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(FOLDER / "clip.npz", **clips.in_transformers(Path(folder)))
