"""Image captioning with soft and hard visual attention (Xu et al. 2015) in JAX and Flax NNX.

    import show_attend_tell as sat

    model = sat.load("flickr8k-soft")
    [seen] = sat.caption(model, ["photo.jpg"])
    sat.draw(seen, "photo.jpg")

`show_attend_tell.pretrained` documents these functions.
"""

import importlib

TYPE_CHECKING = False  # as in `typing`, whose import would cost as much as all the rest
if TYPE_CHECKING:
    from show_attend_tell.pretrained import caption, draw, load, translate

__version__ = "0.2.0"  # pyproject.toml reads it here
__all__ = ["__version__", "caption", "draw", "load", "translate"]


def __getattr__(name: str) -> object:
    # Loaded on first use: `show-attend-tell --help` must not wait for JAX.
    if name in __all__[1:]:
        return getattr(importlib.import_module("show_attend_tell.pretrained"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
