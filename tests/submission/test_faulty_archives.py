"""One archive with one fault each: it is caught, by the right rule, at the right level, with the right words."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pbvs.challenge import load_challenge
from pbvs.submission.check import check
from pbvs.submission.inputs import Inputs
from pbvs.submission.zips import Finding, rejected
from tests.submission.workspace import README, SIDE, noise, png_bytes
from tests.tasks import TASKS

Entries = dict[str, bytes]
Change = Callable[[Entries], None]


def renamed(old: str, new: str) -> Change:
    """All names that begin with `old` begin with `new` instead."""

    def change(items: Entries) -> None:
        moved = {re.sub(f"^{re.escape(old)}", new, name): data for name, data in items.items()}
        items.clear()
        items.update(moved)

    return change


def added(name: str, data: bytes = b"x") -> Change:
    return lambda items: items.update({name: data})


def removed(*names: str) -> Change:
    def change(items: Entries) -> None:
        for name in [name for name in items if name.startswith(names)]:
            del items[name]

    return change


def readme(text: str | bytes) -> Change:
    return added("readme.txt", text if isinstance(text, bytes) else text.encode())


def line(number: int, text: str) -> Change:
    lines = README.splitlines()
    lines[number - 1] = text
    return readme("\n".join(lines) + "\n")


def task(name: str, pixels: Callable[[int], bytes]) -> Change:
    """All images of a task are made again, from their index."""

    def change(items: Entries) -> None:
        for index, path in enumerate(sorted(path for path in items if path.startswith(f"{name}/"))):
            items[path] = pixels(index)

    return change


def edited(name: str, edit: Callable[[bytes], bytes]) -> Change:
    return lambda items: items.update({name: edit(items[name])})


def saved(name: str, pixels: np.ndarray, form: str = "PNG") -> Change:
    return added(name, png_bytes(pixels, form))


def as_mode(name: str, mode: str) -> Change:
    def change(items: Entries) -> None:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(items[name])).convert(mode).save(buffer, format="PNG")
        items[name] = buffer.getvalue()

    return change


def bomb_png() -> bytes:
    """A PNG of a few bytes that says it has 30000 x 30000 pixels."""
    chunk = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    head = b"IHDR" + chunk
    data = zlib.compress(b"\0" * 100)
    parts = [struct.pack(">I", len(chunk)), head, struct.pack(">I", zlib.crc32(head))]
    parts += [struct.pack(">I", len(data)), b"IDAT", data, struct.pack(">I", zlib.crc32(b"IDAT" + data))]
    parts += [struct.pack(">I", 0), b"IEND", struct.pack(">I", zlib.crc32(b"IEND"))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def enlarged(index: int) -> bytes:
    small = Image.fromarray(noise(index, 3, side=SIDE // 4))
    return png_bytes(np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))


def repeated_pixels(index: int) -> bytes:
    return png_bytes(noise(index, 3, side=SIDE // 2).repeat(2, 0).repeat(2, 1))


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(noise(index, 3)) for index in range(2)]
    frames[0].save(buffer, format="TIFF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def tiff16() -> bytes:
    return png_bytes(noise(1, 1).astype(np.uint16) * 100, "TIFF")


PNG = "sar2rgb/1.png"
FAULTS: dict[str, tuple[Change, str, str, str]] = {
    # what: change, rule, level, a part of the message
    "enclosing folder": (renamed("", "submission/"), "enclosing-folder", "error", "instead of at the archive's root"),
    "two enclosing folders": (renamed("", "a/b/"), "enclosing-folder", "error", "instead of at the archive's root"),
    "macOS resource fork": (added("__MACOSX/sar2eo/._1.png"), "junk", "error", "left there by macOS"),
    "macOS dot file beside images": (added("sar2eo/._1.png"), "junk", "error", "counts as a file too many"),
    ".DS_Store": (added(".DS_Store"), "junk", "error", "left there by macOS"),
    "Thumbs.db": (added("rgb2ir/Thumbs.db"), "junk", "error", "Windows"),
    "folder in upper case": (renamed("sar2eo/", "SAR2EO/"), "wrong-folder", "error", "no task of this name"),
    "folder misspelt": (renamed("sar2rgb/", "sar_to_rgb/"), "wrong-folder", "error", "no task of this name"),
    "folder too deep": (renamed("sar2ir/", "sar2ir/images/"), "nested-folder", "error", "a folder too deep"),
    "empty folder in a folder": (added("sar2ir/more/", b""), "nested-folder", "error", "holds another folder"),
    "script at the root": (added("test.py"), "stray-file", "error", "does not belong"),
    "ground truth folder": (added("gt/1.png"), "wrong-folder", "error", "no task of this name"),
    "text beside images": (added("sar2eo/log.txt"), "stray-file", "error", "no PNG or TIFF"),
    "JPEG beside images": (added("sar2eo/1.jpg"), "stray-file", "error", "no PNG or TIFF"),
    "archive in the archive": (added("sar2eo.zip"), "nested-archive", "error", "archive in the archive"),
    "disguised archive": (
        added("sar2eo/notes.txt", b"PK\x03\x04"),
        "nested-archive",
        "error",
        "archive in the archive",
    ),
    "no images": (removed(*TASKS), "no-images", "error", "holds no predictions"),
    "task missing": (removed("sar2ir/"), "missing-task", "warning", "counts as 1.00"),
    "image missing": (removed("sar2eo/10.png"), "missing-image", "error", "later images would be compared"),
    "image too many": (
        added("sar2eo/99.png", png_bytes(noise(1, 1))),
        "extra-image",
        "error",
        "no input of this name",
    ),
    "leading zeros": (renamed("rgb2ir/", "rgb2ir/00"), "missing-image", "error", "is missing"),
    "one name twice": (saved("rgb2ir/1.tiff", noise(9, 1), "TIFF"), "same-name-twice", "error", ".png, .tiff"),
    "suffix in upper case": (renamed("rgb2ir/1.png", "rgb2ir/1.PNG"), "suffix-case", "error", "do not count"),
    "cut-off PNG": (edited(PNG, lambda data: data[:-30]), "truncated", "error", "ends before the image does"),
    "empty PNG": (added(PNG, b""), "format", "error", "is empty though"),
    "flipped bit": (edited(PNG, flip), "damaged", "error", "wrong checksum"),
    "bytes after the end": (
        edited(PNG, lambda data: data + b"more"),
        "trailing-bytes",
        "error",
        "4 bytes after its end",
    ),
    "JPEG called PNG": (saved(PNG, noise(1, 3), "JPEG"), "format", "error", "is JPEG inside"),
    "TIFF called PNG": (saved(PNG, noise(1, 3), "TIFF"), "format", "error", "is TIFF inside"),
    "VRT called TIFF": (added("rgb2ir/7.tiff", b"<VRTDataset/>"), "format", "error", "is XML inside"),
    "too small": (saved(PNG, noise(1, 3, side=20)), "wrong-size", "error", f"20 x 20 pixels, not {SIDE} x {SIDE}"),
    "RGB with alpha": (as_mode(PNG, "RGBA"), "mode", "error", "RGB with alpha"),
    "palette": (as_mode(PNG, "P"), "mode", "error", "palette"),
    "1 bit": (as_mode("rgb2ir/1.png", "1"), "mode", "error", "1 bit"),
    "gray with alpha": (as_mode("rgb2ir/1.png", "LA"), "mode", "error", "gray with alpha"),
    "16-bit PNG": (saved("rgb2ir/1.png", noise(1, 1).astype(np.uint16) * 200), "mode", "error", "16-bit"),
    "16-bit TIFF": (added("rgb2ir/7.tiff", tiff16()), "mode", "error", "16-bit"),
    "several frames": (added("rgb2ir/7.tiff", animated()), "frames", "error", "several images"),
    "image bomb": (added(PNG, bomb_png()), "too-large", "error", "pixels"),
    "grey where colour is asked": (saved(PNG, noise(1, 1)), "grey-for-colour", "error", "asks for RGB"),
    "colour where grey is asked": (saved("rgb2ir/1.png", noise(1, 3)), "colour-for-grey", "warning", "has colour"),
    "modes mixed": (
        saved("rgb2ir/1.png", noise(1, 1)[:, :, None].repeat(3, 2)),
        "mixed-modes",
        "warning",
        "2 L and 1 RGB",
    ),
    "formats mixed": (
        lambda items: items.update({"rgb2ir/1.tiff": png_bytes(noise(1, 1), "TIFF")}) or items.pop("rgb2ir/1.png"),
        "mixed-formats",
        "warning",
        ".png and .tiff",
    ),
    "all black": (saved(PNG, np.zeros((SIDE, SIDE, 3), np.uint8)), "constant", "warning", "all black"),
    "one gray level": (saved("sar2eo/4.png", np.full((SIDE, SIDE), 90, np.uint8)), "constant", "warning", "(90)"),
    "one image for all": (
        task("sar2rgb", lambda _: png_bytes(noise(5, 3))),
        "repeated",
        "warning",
        "3 of its images",
    ),
    "copy of the input": (
        task("sar2eo", lambda i: png_bytes(noise([0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9][i], 1))),
        "copy-of-input",
        "warning",
        "11 of 11",
    ),
    "far too dark": (task("sar2rgb", lambda i: png_bytes(noise(i, 3) // 8)), "brightness", "warning", "darker than"),
    "far too bright": (
        task("rgb2ir", lambda i: png_bytes(noise(i, 1, level=194))),
        "brightness",
        "warning",
        "brighter",
    ),
    "enlarged": (task("sar2rgb", enlarged), "enlarged", "warning", "finer than two pixels"),
    "pixels repeated": (task("sar2rgb", repeated_pixels), "enlarged", "warning", "finer than two pixels"),
    "readme missing": (removed("readme.txt"), "readme-missing", "error", "no readme.txt at the root"),
    "readme in a folder": (renamed("readme.txt", "sar2eo/readme.txt"), "readme-missing", "error", "no readme.txt"),
    "readme called README.md": (renamed("readme.txt", "README.md"), "readme-name", "error", "not called readme.txt"),
    "two readmes": (added("README.txt.bak", b"x"), "readme-several", "error", "several readmes"),
    "readme empty": (readme(""), "readme-lines", "error", "0 lines with a colon"),
    "three lines": (readme("".join(README.splitlines(True)[:3])), "readme-lines", "error", "3 lines with a colon"),
    "title before the lines": (
        readme(f"Our team: the best\n{README}"),
        "readme-order",
        "error",
        "line 1 is 'Our team'",
    ),
    "fifth line": (readme(f"{README}Team : we\n"), "readme-lines", "error", "5 lines with a colon"),
    "lines swapped": (readme("\n".join(README.splitlines()[::-1])), "readme-order", "error", "line 1 is"),
    "runtime with a unit": (line(1, "runtime per image [s] : 0.85 s"), "readme-lines", "error", "'0.85 s'"),
    "runtime with a comma": (line(1, "runtime per image [s] : 0,85"), "readme-lines", "error", "bare number"),
    "runtime not a number": (line(1, "runtime per image [s] : nan"), "readme-lines", "error", "no number of seconds"),
    "runtime nought": (line(1, "runtime per image [s] : 0"), "readme-runtime", "warning", "0 s per image"),
    "CPU in words": (line(2, "CPU[1] / GPU[0] : GPU"), "readme-lines", "error", "line 2 says 'GPU'"),
    "CPU as a float": (line(2, "CPU[1] / GPU[0] : 1.0"), "readme-lines", "error", "bare 0 or 1"),
    "extra data in words": (line(3, "Extra Data [1] / No Extra Data [0] : no"), "readme-lines", "error", "line 3"),
    "no description": (line(4, "Other description : "), "readme-description", "warning", "says nothing"),
    "readme in UTF-16": (readme(README.encode("utf-16")), "readme-encoding", "error", "not UTF-8"),
    "readme far too long": (readme(README + "x" * 70_000), "readme-unreadable", "error", "more than 65536 bytes"),
    "prose in the readme": (readme(f"Hello there\n{README}"), "readme-other-lines", "warning", "without a colon"),
}


def found_by(path: Path, inputs: Inputs, rule: str) -> list[Finding]:
    return [finding for finding in check(path, inputs=inputs, evaluation_size="native") if finding.rule == rule]


def test_there_are_enough() -> None:
    assert len(FAULTS) >= 40


def test_the_archive_without_a_fault_has_none(good: Entries, zipped: Callable[[Entries], Path], inputs: Inputs) -> None:
    findings = check(zipped(good), inputs=inputs, evaluation_size="native")
    assert {finding.rule for finding in findings} == {"one-band", "native-sizes"}
    assert not rejected(findings, strict=True)


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_caught(what: str, good: Entries, zipped: Callable[[Entries], Path], inputs: Inputs) -> None:
    change, rule, level, words = FAULTS[what]
    change(good)
    found = found_by(zipped(good), inputs, rule)
    assert found, f"{what} was not caught"
    assert found[0].level == level
    assert words in found[0].message
    assert found[0].hint
    every = check(zipped(good), inputs=inputs, evaluation_size="native")
    assert rejected(every) == (level == "error")
    assert rejected(every, strict=True)


def commented(name: str) -> Change:
    def change(items: Entries) -> None:
        text = PngInfo()
        text.add_text("Software", "another tool")
        items[name] = png_bytes(noise(55, 1), pnginfo=text)

    return change


HARMLESS: dict[str, Change] = {
    "Windows line ends": readme(README.replace("\n", "\r\n")),
    "byte-order mark": readme(b"\xef\xbb\xbf" + README.encode()),
    "blank lines": readme(f"\n{README}\n\n"),
    "no blanks around colons": readme(README.replace(" : ", ":")),
    "colons in the description": line(4, "Other description : step 1: train; step 2: predict"),
    "folder entries": lambda items: items.update({f"{name}/": b"" for name in TASKS}),
    "other order": lambda items: items.update({name: items.pop(name) for name in sorted(items, reverse=True)}),
    "a task in TIFF": lambda items: items.update(
        {f"rgb2ir/{i}.tiff": items.pop(f"rgb2ir/{i}.png") and png_bytes(noise(i, 1), "TIFF") for i in range(3)}
    ),
    "one-band task as RGB": task("sar2ir", lambda i: png_bytes(noise(100 + i, 1)[:, :, None].repeat(3, 2))),
    "PNG with a comment": commented("rgb2ir/1.png"),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_a_harmless_variation_passes(
    what: str, good: Entries, zipped: Callable[[Entries], Path], inputs: Inputs
) -> None:
    HARMLESS[what](good)
    findings = check(zipped(good), inputs=inputs, evaluation_size="native")
    assert not rejected(findings, strict=True), findings


def test_deflated_archive_with_a_comment_passes(good: Entries, tmp_path: Path, inputs: Inputs) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"made by another tool"
        for name, data in good.items():
            archive.writestr(name, data)
    assert not rejected(check(path, inputs=inputs, evaluation_size="native"), strict=True)


def test_other_suffix_is_an_error(good: Entries, zipped: Callable[[Entries], Path], inputs: Inputs) -> None:
    path = zipped(good)
    assert found_by(path.rename(path.with_suffix(".zip.tmp")), inputs, "suffix")[0].level == "error"


@pytest.mark.parametrize("words", ["above 150 MB", "more than 300 MB"])
def test_a_big_archive_is_a_warning(
    words: str, good: Entries, zipped: Callable[[Entries], Path], inputs: Inputs
) -> None:
    warnings = [warning for warning in inputs.challenge.submission.warnings if words in warning.message]
    rules = inputs.challenge.submission.model_copy(
        update={"warnings": [warning.model_copy(update={"bytes": 1000}) for warning in warnings]}
    )
    challenge = inputs.challenge.model_copy(update={"submission": rules})
    found = found_by(zipped(good), replace(inputs, challenge=challenge), "size")
    assert words in found[0].message


def test_the_largest_size_that_is_exceeded_is_told() -> None:
    assert [warning.bytes for warning in load_challenge().submission.warnings] == [150_000_000, 300_000_000]


def test_names_that_differ_as_a_whole_are_put_right_at_once(
    good: Entries, zipped: Callable[[Entries], Path], inputs: Inputs
) -> None:
    moved = {re.sub(r"^(rgb2ir/\d)", r"\1_fake_B", name): data for name, data in good.items()}
    assert "'_fake_B' too much at their end" in found_by(zipped(moved), inputs, "extra-image")[0].hint


def test_challenge_sizes_need_no_data(zipped: Callable[[Entries], Path]) -> None:
    items = {"readme.txt": README.encode(), "sar2eo/1.png": png_bytes(noise(1, 1, side=256))}
    items |= {"rgb2ir/1.png": png_bytes(noise(1, 1, side=256))}
    wrong = [finding.file for finding in check(zipped(items)) if finding.rule == "wrong-size"]
    assert wrong == ["rgb2ir/1.png"]


def test_swapped_sides_are_said(good: Entries, zipped: Callable[[Entries], Path], inputs: Inputs) -> None:
    sizes = replace(inputs)
    sizes.size = lambda task, stem: (40, 30)
    good["rgb2ir/1.png"] = png_bytes(noise(1, 1)[:40, :30])
    assert "swapped" in found_by(zipped(good), sizes, "size-swapped")[0].message


def test_without_data_names_are_said_to_be_unchecked(good: Entries, zipped: Callable[[Entries], Path]) -> None:
    notes = [finding for finding in check(zipped(good)) if finding.rule == "names-unchecked"]
    assert "11 images where the challenge's test set has 3586" in notes[0].message
    assert len(notes) == len(TASKS)
