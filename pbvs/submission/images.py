"""Images inside archives: a stranger's bytes to statistics, and a prediction's bytes to the form a zip should hold.

Files on disk are opened by `pbvs.data.images`; here are only bytes that came out of, or go into, an archive.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pbvs.data.images import MAX_PIXELS, MAX_SIDE

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
TIFF_HEADS = (b"II*\x00", b"MM\x00*")
OTHER_HEADS = {b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP", b"%!PS": "EPS", b"<": "XML"}
MODES = ("L", "RGB")
CROP = 256  # pixels a side of the middle that is looked at for detail
TILE_WIDTH, TILE_LENGTH = 322, 323  # tags of a TIFF
LARGEST_TILE = 2048
FINE = 0.35  # cycles per pixel above which a twofold enlargement holds nothing


class ImageError(ValueError):
    """An image that a scorer could not use; `rule` names the kind of fault."""

    def __init__(self, rule: str, message: str, hint: str):
        super().__init__(message)
        self.rule = rule
        self.hint = hint


@dataclass(frozen=True, slots=True)
class ImageStats:
    """What is kept of an image after it was decoded."""

    width: int
    height: int
    mode: str
    digest: str  # of the pixels
    mean: tuple[float, ...]  # per band, 0..255
    low: int
    high: int
    gray: bool  # one band, or three that are equal
    detail: float  # power above `FINE` cycles per pixel, in squared gray levels; nothing but rounding gives 0.08


def sniff(data: bytes) -> str:
    """Return the format that the first bytes say: PNG, TIFF, another's name, or 'unknown'."""
    if data.startswith(PNG_HEAD):
        return "PNG"
    if data.startswith(TIFF_HEADS):
        return "TIFF"
    return next((name for head, name in OTHER_HEADS.items() if data.startswith(head)), "unknown")


class Budget:
    """How many bytes the images of an archive may unpack to, before no more of them are decoded."""

    def __init__(self, size: int):
        self.left = size

    def take(self, size: int) -> None:
        """Count the bytes of one more image; raises ImageError when they are too many, then and ever after."""
        self.left -= size
        if self.left < 0:
            self.left = -1
            raise ImageError(
                "bomb", "is not read, as the archive's images unpack to far more than its own size", "No image does."
            )


def inspect_image(data: bytes, expected: str, budget: Budget | None = None) -> tuple[ImageStats, NDArray[np.uint8]]:
    """Decode an image to its last byte; return its statistics and its pixels (H, W) or (H, W, 3).

    `expected` is PNG or TIFF, as the name's suffix says. Raises ImageError.
    """
    pixels, mode = decode(data, expected, budget)
    return _stats(pixels, mode), pixels


def decode(data: bytes, expected: str, budget: Budget | None = None) -> tuple[NDArray[np.uint8], str]:
    """Decode an image to its last byte; return its pixels (H, W) or (H, W, 3) and its mode. Raises ImageError."""
    found = sniff(data)
    if found != expected:
        what = "is empty" if not data else f"is {found} inside"
        raise ImageError("format", f"{what} though its name says {expected}", f"Save it as {expected}.")
    if expected == "PNG":
        walk_png(data)
    return _decode(data, expected, budget)


def walk_png(data: bytes) -> None:
    """Go through a PNG's chunks and check each CRC, as decoders skip some; raises ImageError."""
    hint = "Write it again; it was damaged or cut off after it was made."
    position, kind = len(PNG_HEAD), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise ImageError("truncated", "ends before the image does", hint)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise ImageError("truncated", "ends before the image does", hint)
        if zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ImageError("damaged", f"has a wrong checksum in its chunk {kind!r}", hint)
        position = end + 4
    if position != len(data):
        raise ImageError("trailing-bytes", f"has {len(data) - position} bytes after its end", "Write it again.")


def _decode(data: bytes, expected: str, budget: Budget | None) -> tuple[NDArray[np.uint8], str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=[expected]) as image:
                _check_head(image)
                if budget:
                    budget.take(image.width * image.height * len(image.getbands()))
                return np.asarray(image), image.mode
    except ImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError("too-large", "says it has far too many pixels", "Write it in the evaluation size.") from None
    except Exception as error:
        # Decoders of damaged files raise what they like; whatever it is, the image cannot be read.
        raise ImageError("unreadable", f"cannot be decoded ({error})", "Save it again as 8-bit gray or RGB.") from None


def _check_head(image: Image.Image) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError("too-large", f"says it is {width} x {height} pixels", "Write it in the evaluation size.")
    tiles = [side for tag in (TILE_WIDTH, TILE_LENGTH) if isinstance(side := _tag(image, tag), int)]
    if any(side > max(LARGEST_TILE, width, height) for side in tiles):  # a decoder makes room for a whole tile
        raise ImageError("too-large", f"says its tiles have {max(tiles)} pixels a side", "Write it in plain strips.")
    if _has_second(image):
        raise ImageError("frames", "holds several images", "Keep one image a file.")
    if image.mode not in MODES:
        raise ImageError(
            "mode", f"has the mode {_mode_words(image.mode)}", "Save it as 8-bit gray (L) or 8-bit RGB without alpha."
        )


def _tag(image: Image.Image, number: int) -> object:
    return getattr(image, "tag_v2", {}).get(number)


def _has_second(image: Image.Image) -> bool:
    """Return whether there is a second frame, without counting them all: a file may claim millions."""
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _mode_words(mode: str) -> str:
    words = {
        "1": "1 bit",
        "P": "palette",
        "LA": "gray with alpha",
        "RGBA": "RGB with alpha",
        "I": "32-bit integer",
        "F": "32-bit float",
    }
    return f"{mode} ({'16-bit gray' if mode.startswith('I;16') else words.get(mode, 'not 8-bit gray or RGB')})"


def _stats(pixels: NDArray[np.uint8], mode: str) -> ImageStats:
    bands = pixels if pixels.ndim == 3 else pixels[:, :, None]
    counts = np.reshape(Image.fromarray(pixels).histogram(), (bands.shape[2], 256))
    levels = np.flatnonzero(counts.any(axis=0))
    low, high = int(levels[0]), int(levels[-1])
    return ImageStats(
        width=pixels.shape[1],
        height=pixels.shape[0],
        mode=mode,
        digest=hashlib.sha256(pixels.data).hexdigest(),
        mean=tuple((counts @ np.arange(256) / counts.sum(axis=1)).tolist()),
        low=low,
        high=high,
        gray=all(np.array_equal(bands[:, :, 0], bands[:, :, band]) for band in range(1, bands.shape[2])),
        detail=0.0 if low == high or _in_blocks(bands) else fine_detail(bands[:, :, 0]),
    )


def _in_blocks(bands: NDArray[np.uint8]) -> bool:
    """Return whether the image consists of blocks of 2 x 2 or 3 x 3 equal pixels: enlarged by repeating pixels."""
    corner = bands[:CROP, :CROP]
    return any(_repeats(corner, factor) and _repeats(bands, factor) for factor in (2, 3))


def _repeats(bands: NDArray[np.uint8], factor: int) -> bool:
    height, width = (side - side % factor for side in bands.shape[:2])
    first = bands[:height:factor, :width:factor]
    others = (bands[down:height:factor, right:width:factor] for down in range(factor) for right in range(factor))
    return bool(first.size) and all(np.array_equal(first, other) for other in others)


def fine_detail(band: NDArray[np.uint8]) -> float:
    """Return the mean power of one band's finest structure, in squared gray levels, from its middle.

    White noise of variance v gives v; rounding to whole gray levels alone gives 1/12. (Periodogram with a Hann window.)
    """
    height, width = band.shape
    side = min(CROP, height, width)
    if side < 16:
        return float("inf")
    top, left = (height - side) // 2, (width - side) // 2
    crop = band[top : top + side, left : left + side].astype(np.float64)
    window = np.hanning(side)[:, None] * np.hanning(side)[None, :]
    power = np.abs(np.fft.rfft2((crop - crop.mean()) * window)) ** 2 / (window**2).sum()
    fine = np.maximum(np.abs(np.fft.fftfreq(side))[:, None], np.fft.rfftfreq(side)[None, :]) > FINE
    return float(power[fine].mean())


def recode(data: bytes, mode: str | None, form: str) -> bytes:
    """Return a prediction's PNG in another mode ('L', 'RGB' or None for its own) and as 'png' or 'tiff'.

    Bytes that are already right come back as they are. RGB to L is the mean of the bands.
    """
    pixels, stored = decode(data, "PNG")
    if form == "png" and mode in (None, stored):
        return data
    return encode(_to_mode(pixels, mode or stored), form)


def recode_any(data: bytes, expected: str) -> bytes:
    """Return an image of either format as PNG; a PNG comes back as it is. Raises ImageError."""
    return data if expected == "PNG" else encode(decode(data, expected)[0], "png")


def _to_mode(pixels: NDArray[np.uint8], mode: str) -> NDArray[np.uint8]:
    if mode == "RGB" and pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if mode == "L" and pixels.ndim == 3:
        gray: NDArray[np.uint8] = np.rint(pixels.mean(axis=2)).astype(np.uint8)
        return gray
    return pixels


def encode(pixels: NDArray[np.uint8], form: str) -> bytes:
    """Return (H, W) or (H, W, 3) pixels as the bytes of a PNG or deflated TIFF, always the same for the same pixels."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if form == "tiff":
        image.save(buffer, format="TIFF", compression="tiff_adobe_deflate")
    else:
        # Runs suit the differences of one band or of three unlike ones; they waste space where the bands are equal.
        equal = pixels.ndim == 3 and bool((pixels == pixels[:, :, :1]).all())
        image.save(buffer, format="PNG", compress_level=1, compress_type=-1 if equal else 3)
    return buffer.getvalue()
