"""Image files, decoded with care: any mode, any rotation; an unreadable file is an error."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from show_attend_tell.errors import UserError

# An encoded image, the path of a file, or RGB values 0 to 255.
Picture = bytes | Path | UInt8[np.ndarray, "H W 3"]
WHOLE = (0.0, 0.0, 1.0, 1.0)  # ymin, xmin, ymax, xmax of a whole image
# The usual formats; Pillow's many others are kept away from untrusted files.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# Most pixels of a file that need not be decoded at full size (most JPEG) ...
MAX_FILE_PIXELS = 500_000_000  # 20,000 x 20,000 passes
# ... and most pixels to decode, about 0.5 GB a copy. Both stop decompression bombs.
MAX_DECODED_PIXELS = 120_000_000
# Data sets convert images of more bytes to JPEG of this side and quality: more than encoders need.
MAX_KEPT_BYTES, KEPT_SIDE, KEPT_QUALITY = 2**23, 2048, 95
SIDE = 512  # pixels: of pictures that are drawn over, or written beside a caption
# A PNG's colour profile and texts expand to at most this many bytes. None of them is used, but
# Pillow unpacks them, and its own limit of 1 MB refuses what cameras and editors write.
MAX_TEXT_BYTES = 2**26

# Pillow's own limit, a warning and then an error at twice the number, would come first.
Image.MAX_IMAGE_PIXELS = MAX_FILE_PIXELS
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES, 2 * MAX_TEXT_BYTES
# Orientations that turn a picture, and how; 1 is upright. Whatever else a file says is ignored.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_URL = re.compile(r"[a-z][a-z0-9+]+:/", re.IGNORECASE)  # as paths they have one slash

# About sizes and odd EXIF. Set once, globally, since `catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(
    source: Picture,
    size: int,
    window: tuple[float, float, float, float] = WHOLE,
) -> UInt8[np.ndarray, "S S 3"]:
    """Reads an image as encoders take it: RGB, upright, squashed to S x S (aspect not kept).

    Training, evaluation and single files all resize here: bicubic with antialiasing.

    Args:
      source: an encoded image, the path of a file, or RGB values.
      size: S, at least 1.
      window: the part of the upright image to read, ymin, xmin, ymax, xmax in [0, 1].

    Returns:
      RGB values 0 to 255, transparent parts on white, EXIF rotation applied.

    Raises:
      UserError: the file is missing, is not an image of a known format, is damaged, or has more
        pixels than `MAX_FILE_PIXELS` or `MAX_DECODED_PIXELS`; the message names it.
    """
    image = _open(source, size)
    ymin, xmin, ymax, xmax = window
    box = (xmin * image.width, ymin * image.height, xmax * image.width, ymax * image.height)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box), np.uint8)


def read_picture(source: Picture, max_side: int) -> UInt8[np.ndarray, "H W 3"]:
    """Reads an image for display: as `read_image`, but keeps the aspect; sides up to `max_side`."""
    image = _open(source, max_side)
    scale = min(1.0, max_side / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.uint8)


def keepable(encoded: bytes) -> bytes:
    """An encoded image in the form that data sets keep; decodes it once to see that this works.

    JPEG and PNG that all programs show alike stay as they are, up to `MAX_KEPT_BYTES`. Anything
    else, such as WebP, the first frame of a GIF, CMYK or 16 bits, becomes a JPEG of upright RGB
    with no side over `KEPT_SIDE`.

    Raises:
      UserError: as for `read_image`.
    """
    with _opened(encoded) as image:
        kind, mode = image.format, image.mode
    # MPO is a JPEG with more images behind it.
    common = kind in ("JPEG", "MPO", "PNG") and mode not in ("CMYK", "I", "F")
    if common and not mode.startswith("I;") and len(encoded) <= MAX_KEPT_BYTES:
        read_image(encoded, 1)
        return encoded
    file = io.BytesIO()
    Image.fromarray(read_picture(encoded, KEPT_SIDE)).save(file, "JPEG", quality=KEPT_QUALITY)
    return file.getvalue()


def picture_size(source: Picture) -> tuple[int, int]:
    """(height, width) in pixels of the upright original; reads only the file's header.

    Raises:
      UserError: as for `read_image`, except for damage that only decoding shows.
    """
    with _opened(source) as image:
        width, height = image.size
        if image.format == "PNG" and "exif" not in image.info:  # it may stand behind the pixels
            if width * height > MAX_DECODED_PIXELS:
                raise Image.DecompressionBombError
            image.load()
    sideways = _orientation(image) >= 5
    return (width, height) if sideways else (height, width)


def _open(source: Picture, side: int) -> Image.Image:
    """Decodes an image to upright RGB; a JPEG only as finely as `side` x `side` pixels need."""
    with _opened(source) as image:
        pixels = image.width * image.height
        # A JPEG decodes at 1/2, 1/4 or 1/8 for less; twice the needed side stays sharp. A
        # progressive one holds all its coefficients in memory at any scale.
        if not image.info.get("progressive"):
            image.draft("RGB", (2 * side, 2 * side))
        if pixels > MAX_FILE_PIXELS or image.width * image.height > MAX_DECODED_PIXELS:
            raise Image.DecompressionBombError
        image.load()
    turn = _TURNS.get(_orientation(image))
    return _to_rgb(image if turn is None else image.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """How a picture is to be turned, 1 to 8 as in EXIF; 1 where what the file says makes no sense.

    Viewers ignore such an orientation, and EXIF that they cannot read. The file may be closed, but
    a PNG must have been decoded.
    """
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF raises anything; pixels are checked when they are decoded
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def is_url(name: str) -> bool:
    """Whether a name is a web address or the like, also where a path has swallowed a slash."""
    return _URL.match(name) is not None


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors of an encoded image, which has no name of its own, name it so."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub("^image:", lambda _: f"{name}:", str(error))) from error


@contextmanager
def _opened(source: Picture) -> Iterator[Image.Image]:
    """An image whose header is read; errors of the file and in the body become a `UserError`.

    Keep the body to calls of Pillow, whose decoders raise exceptions of all kinds for damaged
    files. Code of ours stays outside, so that its bugs do not blame the file.
    """
    if isinstance(source, np.ndarray):
        yield Image.fromarray(source)
        return
    name = "image" if isinstance(source, bytes) else str(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    except FileNotFoundError:
        if is_url(name):
            raise UserError(f"{name}: a URL; fetch it first, and name the file") from None
        raise UserError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{name}: a folder; name image files") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: cannot be opened ({why}); name a readable file") from error
    try:
        with file, Image.open(file, formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError:
        raise UserError(f"{name}: not an image of a known format; save it as JPEG or PNG") from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{name}: too many pixels; scale it down to at most {MAX_DECODED_PIXELS:,}"
        ) from None
    except Exception as error:
        if "MAX_TEXT_" in str(error):
            raise UserError(
                f"{name}: its colour profile or texts fill more than {MAX_TEXT_BYTES:,} bytes; "
                "save it without them"
            ) from error
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: damaged or cut short ({why}); get the file again") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts a decoded image of any mode to RGB, transparent parts on white."""
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image.convert("RGB")


def jpeg(picture: Picture, side: int) -> bytes:
    """A picture as a JPEG: upright, without what a camera wrote into it, sides up to `side`."""
    file = io.BytesIO()
    Image.fromarray(read_picture(picture, side)).save(file, "JPEG", quality=88)
    return file.getvalue()
