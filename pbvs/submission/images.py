"""Images inside archives: a stranger's bytes to statistics, and a prediction's bytes to the form a zip should hold.

Files on disk are opened by `pbvs.data.images`; here are only bytes that came out of, or go into, an archive.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pbvs.challenge.model import Outputs
from pbvs.data.images import MAX_PIXELS, MAX_SIDE, equal_bands, png_options, read_image
from pbvs.errors import PbvsError, of_data

Pixels = NDArray[Any]  # (H, W) or (H, W, 3)

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
DEPTH = 24  # where a PNG says its bits a channel
TIFF_HEADS = (b"II*\x00", b"MM\x00*")
NPY_HEAD = b"\x93NUMPY"
OTHER_HEADS = {b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP", b"%!PS": "EPS", b"<": "XML"}
MODES = ("L", "RGB")
PLAIN = Outputs()  # 8 bits of which all are used
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
    mean: tuple[float, ...]  # per band, in gray levels: 0..255 whatever the type and range
    low: float
    high: float
    gray: bool  # one band, or three that are equal
    detail: float  # power above `FINE` cycles per pixel, in squared gray levels; nothing but rounding gives 0.08


def sniff(data: bytes) -> str:
    """Return the format that the first bytes say: PNG, TIFF, NPY, another's name, or 'unknown'."""
    if data.startswith(PNG_HEAD):
        return "PNG"
    if data.startswith(TIFF_HEADS):
        return "TIFF"
    if data.startswith(NPY_HEAD):
        return "NPY"
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


def inspect_image(
    data: bytes, expected: str, outputs: Outputs = PLAIN, budget: Budget | None = None
) -> tuple[ImageStats, Pixels]:
    """Decode an image to its last byte; return its statistics and its pixels (H, W) or (H, W, 3).

    `expected` is PNG, TIFF or NPY, as the name's suffix says, `outputs` what the challenge asks for.
    Raises ImageError.
    """
    pixels = decode(data, expected, outputs, budget)
    return _stats(pixels, outputs), pixels


def decode(data: bytes, expected: str, outputs: Outputs = PLAIN, budget: Budget | None = None) -> Pixels:
    """Decode an image to its last byte; return (H, W) or (H, W, 3) of the challenge's type. Raises ImageError."""
    found = sniff(data)
    if found != expected:
        what = "is empty" if not data else f"is {found} inside"
        raise ImageError("format", f"{what} though its name says {expected}", f"Save it as {expected}.")
    if expected == "PNG":
        walk_png(data)
    if expected == "NPY":
        return _checked(_decode_npy(data, budget), outputs)
    if outputs.dtype == "uint8":
        return _decode_plain(data, expected, budget)
    return _checked(_decode_wide(data, expected, budget), outputs)


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


def _decode_plain(data: bytes, expected: str, budget: Budget | None) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=[expected]) as image:
                _check_head(image)
                if expected == "PNG" and data[DEPTH] == 16:  # of which Pillow drops half where there are three channels
                    raise ImageError("mode", "has 16 bits a channel", "Save it as 8-bit RGB.")
                if budget:
                    budget.take(image.width * image.height * len(image.getbands()))
                return np.asarray(image)
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
    tags = getattr(image, "tag_v2", {})
    tiles = [side for tag in (TILE_WIDTH, TILE_LENGTH) if isinstance(side := tags.get(tag), int)]
    if any(side > max(LARGEST_TILE, width, height) for side in tiles):  # a decoder makes room for a whole tile
        raise ImageError("too-large", f"says its tiles have {max(tiles)} pixels a side", "Write it in plain strips.")
    if _has_second(image):
        raise ImageError("frames", "holds several images", "Keep one image a file.")
    if image.mode not in MODES:
        raise ImageError(
            "mode", f"has the mode {_mode_words(image.mode)}", "Save it as 8-bit gray (L) or 8-bit RGB without alpha."
        )


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


def _decode_wide(data: bytes, expected: str, budget: Budget | None) -> Pixels:
    """Decode more than 8 bits by the reader of data files, which wants a file."""
    with tempfile.NamedTemporaryFile(suffix=f".{expected.lower()}") as file:
        file.write(data)
        file.flush()
        try:
            pixels = read_image(Path(file.name))
        except PbvsError as error:
            reason = of_data(error).replace(file.name, "it")
            raise ImageError("unreadable", f"cannot be decoded ({reason})", "Save it again.") from None
    if budget:
        budget.take(pixels.nbytes)
    return pixels


def _decode_npy(data: bytes, budget: Budget | None) -> Pixels:
    """Decode an array of numbers; its header is compared with its length before room is made for it."""
    hint = "Save it by numpy.save, without objects."
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        size = int(np.prod([*shape, dtype.itemsize], dtype=object))
        if dtype.hasobject or size != len(data) - file.tell():
            raise ValueError("its length is not what its header says")
        if budget:
            budget.take(size)
        file.seek(0)
        array: Pixels = np.load(file, allow_pickle=False)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError("unreadable", f"cannot be decoded ({error})", hint) from None
    if array.ndim not in (2, 3) or array.size == 0:
        raise ImageError("mode", f"has the shape {array.shape}", "Save it as (height, width[, channels]).")
    return array


def _checked(pixels: Pixels, outputs: Outputs) -> Pixels:
    """Return (H, W) or (H, W, 3); raises ImageError for another type, other channels, or no numbers."""
    if pixels.dtype != np.dtype(outputs.dtype):
        raise ImageError("mode", f"has {pixels.dtype} numbers, not {outputs.dtype}", f"Save it as {outputs.dtype}.")
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
        raise ImageError("mode", f"has {pixels.shape[2]} channels", "Save it with one channel or three.")
    if not np.isfinite(pixels).all():
        raise ImageError("mode", "holds numbers that are not finite", "Write a number for every pixel.")
    return pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _stats(pixels: Pixels, outputs: Outputs) -> ImageStats:
    plain = is_plain(outputs)
    levels: Pixels = pixels if plain else from_numbers(pixels, outputs) * 255.0
    bands = np.atleast_3d(levels)
    mean, low, high = _levels(levels) if plain else (bands.mean(axis=(0, 1)), levels.min(), levels.max())
    corner = bands[:CROP, :CROP]
    enlarged = (_repeats(corner, factor) and _repeats(bands, factor) for factor in (2, 3))  # by repeating pixels
    return ImageStats(
        width=pixels.shape[1],
        height=pixels.shape[0],
        mode=MODES[bands.shape[2] == 3],
        digest=hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest(),
        mean=tuple(float(value) for value in mean),
        low=float(low),
        high=float(high),
        gray=all(np.array_equal(bands[:, :, 0], bands[:, :, band]) for band in range(1, bands.shape[2])),
        detail=0.0 if low == high or any(enlarged) else fine_detail(bands[:, :, 0]),
    )


def _levels(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], int, int]:
    """Return the mean of each band, the lowest and the highest level of 8-bit pixels, by their histogram."""
    counts = np.reshape(Image.fromarray(pixels).histogram(), (-1, 256))
    levels = np.flatnonzero(counts.any(axis=0))
    return counts @ np.arange(256) / counts.sum(axis=1), int(levels[0]), int(levels[-1])


def _repeats(bands: NDArray[Any], factor: int) -> bool:
    height, width = (side - side % factor for side in bands.shape[:2])
    first = bands[:height:factor, :width:factor]
    others = (bands[down:height:factor, right:width:factor] for down in range(factor) for right in range(factor))
    return bool(first.size) and all(np.array_equal(first, other) for other in others)


def fine_detail(band: NDArray[Any]) -> float:
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


# --- Number types: what 0 and 1 are written as.


def value_range(outputs: Outputs) -> tuple[float, float]:
    """Return the numbers that 0 and 1 are written as."""
    if outputs.range is not None:
        return outputs.range
    return (0.0, 1.0) if outputs.dtype == "float32" else (0.0, float(np.iinfo(outputs.dtype).max))


def is_plain(outputs: Outputs) -> bool:
    """Return whether files hold 8 bits of which all are used, as predictions are stored."""
    return outputs.dtype == "uint8" and value_range(outputs) == (0.0, 255.0)


def to_numbers(stored: NDArray[np.unsignedinteger[Any]], outputs: Outputs) -> NDArray[Any]:
    """Return a stored prediction (8 or 16 bits, all of them used) in the submission's type and range."""
    if is_plain(outputs) and stored.dtype == np.uint8:
        return stored
    low, high = value_range(outputs)
    values = stored / float(np.iinfo(stored.dtype).max) * (high - low) + low
    return values.astype(np.float32) if outputs.dtype == "float32" else np.rint(values).astype(outputs.dtype)


def from_numbers(values: NDArray[Any], outputs: Outputs) -> NDArray[np.float32]:
    """Return a submission's numbers as float32 in [0, 1]; those outside of the range are clipped, NaN becomes 0."""
    low, high = value_range(outputs)
    unit = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    clipped: NDArray[np.float32] = np.clip(np.nan_to_num(unit, nan=0.0), 0.0, 1.0)
    return clipped


# --- From a stored prediction to what an archive holds, and back.


def recode(data: bytes, mode: str | None, form: str, outputs: Outputs = PLAIN) -> bytes:
    """Return a prediction's PNG in another mode ('L', 'RGB' or None for its own), as 'png', 'tiff' or 'npy'.

    Bytes that are already right come back as they are. RGB to L is the mean of the bands. Raises ImageError.
    """
    pixels = decode_stored(data)
    own = MODES[pixels.ndim == 3]
    if form == "png" and mode in (None, own) and is_plain(outputs) and pixels.dtype == np.uint8:
        return data
    return encode(to_numbers(_to_mode(pixels, mode or own), outputs), form)


def decode_stored(data: bytes) -> Pixels:
    """Return the pixels of a prediction as a run stores it: a PNG of 8 or 16 bits. Raises ImageError."""
    deep = data.startswith(PNG_HEAD) and data[DEPTH : DEPTH + 1] == b"\x10"
    return decode(data, "PNG", Outputs(dtype="uint16") if deep else PLAIN)


def as_prediction(data: bytes, expected: str, outputs: Outputs, budget: Budget | None = None) -> bytes:
    """Return an archive's image as a run stores predictions: a PNG of 8 bits, or 16 where the challenge has more.

    A plain PNG comes back as it is. Raises ImageError.
    """
    pixels = decode(data, expected, outputs, budget)
    if is_plain(outputs):
        return data if expected == "PNG" else encode(pixels, "png")
    dtype = np.dtype("uint8" if outputs.dtype == "uint8" else "uint16")
    levels = np.rint(from_numbers(pixels, outputs).astype(np.float64) * np.iinfo(dtype).max)
    return encode(levels.astype(dtype), "png")


def _to_mode(pixels: Pixels, mode: str) -> Pixels:
    if mode == "RGB" and pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if mode == "L" and pixels.ndim == 3:
        gray: Pixels = np.rint(pixels.mean(axis=2)).astype(pixels.dtype)
        return gray
    return pixels


def encode(pixels: Pixels, form: str) -> bytes:
    """Return (H, W) or (H, W, 3) pixels as the bytes of a PNG, deflated TIFF or NPY: always the same ones."""
    buffer = io.BytesIO()
    if form == "npy":
        np.save(buffer, np.ascontiguousarray(pixels), allow_pickle=False)
    elif pixels.dtype != np.uint8:
        return _encode_wide(pixels, form)
    elif form == "tiff":
        Image.fromarray(pixels).save(buffer, format="TIFF", compression="tiff_adobe_deflate")
    else:
        Image.fromarray(pixels).save(buffer, format="PNG", **png_options(pixels.ndim == 3 and equal_bands(pixels)))
    return buffer.getvalue()


def _encode_wide(pixels: Pixels, form: str) -> bytes:
    """Encode 16-bit or floating-point pixels, which Pillow cannot write with three channels."""
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    bands = np.atleast_3d(pixels)
    height, width, count = bands.shape
    how = {"driver": "PNG"} if form == "png" else {"driver": "GTiff", "compress": "deflate"}
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(height=height, width=width, count=count, dtype=pixels.dtype.name, **how) as file:
            file.write(np.moveaxis(bands, 2, 0))
        return bytes(memory.getbuffer())
