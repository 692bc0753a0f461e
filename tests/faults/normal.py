"""What two runs of one command must agree on: all bytes but measured seconds and the clock; scores to 1e-6."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
from typing import Any

NUMBER = rb"-?\d+\.\d+(?:e[-+]?\d+)?"
KEY_OF_IMAGES = re.compile(r"(_files/)[0-9a-f]{12}/")  # where the images of one writing of a page lie
FAR = 2e-6  # 1e-6, and as much again for what `normal` rounds off
CLOCK = frozenset({"seconds", "when", "time", "date", "started", "finished", "packaged", "sources", "git", "seen"})


def normal(name: str, data: bytes) -> bytes:
    """Return a file's bytes without measured times; what is no whole file of its kind is returned as it is."""
    try:
        if name.endswith(".json"):
            return json.dumps(without_clock(json.loads(data)), sort_keys=True).encode()
        if name.endswith(".safetensors"):
            return _safetensors(data)
        if name == "log.csv" or (name.startswith("ablation-") and name.endswith(".csv")):
            rows = list(csv.DictReader(io.StringIO(data.decode())))
            return json.dumps([without_clock(row) for row in rows]).encode()
        if name.endswith(".csv"):  # scores agree to 1e-6 whether targets were seen before or not
            return re.sub(rb"\d+\.\d{6,}", lambda found: b"%.6f" % float(found.group()), data)
        if name.endswith(".html"):
            data = re.sub(rb"(<td class=\"text\">\w+</td><td>\d+</td><td>)[\d.]+", rb"\1-", data)  # seconds an image
            data = re.sub(rb"(<td class=\"extra\">|<dt>seconds</dt><dd>)[\d.]+", rb"\1-", data)
            data = re.sub(KEY_OF_IMAGES.pattern.encode(), rb"\1-/", data)
            return re.sub(rb"\d[\d.,]* ?(s|ms|min|h)\b|\d\d:\d\d(:\d\d)?", b"-", data)
    except (ValueError, KeyError, struct.error):
        pass
    return data


def alike(name: str, one: bytes, other: bytes) -> bool:
    """Return whether two tables agree but for the clock and numbers that differ by at most 1e-6.

    A score is that far off where a target's features came from the cache; rounding it, as `normal` does, hides most of
    that, but not where the digit turns.
    """
    texts = [normal(name, data) for data in (one, other)]
    if re.sub(NUMBER, b"#", texts[0]) != re.sub(NUMBER, b"#", texts[1]):
        return False
    numbers = [[float(found) for found in re.findall(NUMBER, text)] for text in texts]
    return all(abs(a - b) <= FAR for a, b in zip(*numbers, strict=True))


def without_clock(value: Any) -> Any:
    """Return a JSON value without the keys that name a time."""
    if isinstance(value, dict):
        return {key: without_clock(item) for key, item in value.items() if key not in CLOCK}
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list):
        return [without_clock(item) for item in value]
    return value


def _safetensors(data: bytes) -> bytes:
    """Return header without clock, and the tensors' bytes."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    facts = json.loads(header.get("__metadata__", {}).get("pbvs", "null"))
    if header.get("__metadata__"):
        header["__metadata__"]["pbvs"] = without_clock(facts)
    return json.dumps(header, sort_keys=True).encode() + data[8 + size :]
