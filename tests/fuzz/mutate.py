"""Damage to files: the blind kind that any format meets, and lies told in the places where a format states sizes."""

from __future__ import annotations

import json
import random
import re
import struct
import zlib
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]
NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 100_000, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = (
    "", "nan", "inf", "-inf", "-1", "0", "1e308", "1e999", "9" * 40, "null", "true", "[]", "{}", "''", '"', "../../x",
    "/etc/passwd", "\x00", "\ufeff", "🛰", "a" * 3000, "\n", "=", "[[", "]]", ",", "\\", "NaN", "0x10", "1970-01-01",
)  # fmt: skip


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 3, 8, 40))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_head(rng: random.Random, data: bytes) -> bytes:
    """Flip bits where formats keep what they say of themselves: the first and the last 200 bytes."""
    head, tail = flip_bits(rng, data[:200]), data[200:]
    return head + (tail[:-200] + flip_bits(rng, tail[-200:]) if rng.random() < 0.5 else tail)


def insert_noise(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 64, 1000))) + data[at:]


def drop_slice(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 4, 64, 1000)) :]


def repeat_slice(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    part = data[at : at + rng.choice((4, 64, 1000))]
    return data[:at] + part * rng.choice((2, 3, 50)) + data[at:]


def lie_about_numbers(rng: random.Random, data: bytes) -> bytes:
    """Write a telling number over two, four or eight bytes, mostly near the beginning."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        form = rng.choice(("<H", ">H", "<I", ">I", "<Q"))
        size = struct.calcsize(form)
        reach = min(len(changed), 400) if rng.random() < 0.7 else len(changed)
        if reach >= size:
            struct.pack_into(form, changed, rng.randrange(reach - size + 1), rng.choice(NUMBERS) % 2 ** (8 * size))
    return bytes(changed)


def empty(rng: random.Random, data: bytes) -> bytes:
    return rng.choice((b"", b"\x00" * 100, rng.randbytes(50), b"<VRTDataset></VRTDataset>", b"%!PS-Adobe-3.0 EPSF-3.0"))


BLIND: tuple[Mutation, ...] = (
    truncate, flip_bits, flip_head, insert_noise, drop_slice, repeat_slice, lie_about_numbers, empty,
)  # fmt: skip


def png_chunks(rng: random.Random, data: bytes) -> bytes:
    """Change, repeat, drop or reorder chunks, and make their checksums right again."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    number = rng.randrange(len(chunks))
    kind, body = chunks[number]
    action = rng.randrange(5)
    if action == 0:
        chunks[number] = (kind, lie_about_numbers(rng, body))
    elif action == 1:
        chunks.insert(number, (kind, body))
    elif action == 2:
        del chunks[number]
    elif action == 3:
        extra = rng.choice((b"zTXt", b"iTXt", b"iCCP", b"tRNS", b"PLTE", b"gAMA", b"acTL", b"fdAT", b"eXIf"))
        chunks.insert(number, (extra, rng.choice((b"a\0\0", b"")) + zlib.compress(b"\0" * rng.choice((9, 10**7)))))
    else:
        rng.shuffle(chunks)
    parts = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return data[:8] + b"".join(parts)


def tokens(rng: random.Random, data: bytes) -> bytes:
    """Change words of a text: replace, repeat, drop or swap values, keys, lines."""
    text = data.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 2, 5))):
        parts = re.split(r"(\s+|[,=:\"\[\]{}])", text)
        at = rng.randrange(len(parts))
        action = rng.randrange(4)
        if action == 0:
            parts[at] = rng.choice(WORDS)
        elif action == 1:
            parts.insert(at, rng.choice(WORDS))
        elif action == 2:
            parts[at] *= rng.choice((2, 2, 20))
        else:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        text = "".join(parts)
    return text.encode("utf-8", "surrogatepass")


def json_values(rng: random.Random, data: bytes) -> bytes:
    """Put odd values of every type into a JSON text, which stays one."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        node = value
        while isinstance(node, (dict, list)) and node:
            key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
            if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.25:
                node[key] = rng.choice((None, True, -1, 10**400, 1e308, "x", "<b>", "", [], {}, [[1]], {"a": None}))
                break
            node = node[key]
    return json.dumps(value).encode()


def nested(rng: random.Random, data: bytes) -> bytes:
    """Brackets in brackets, deep enough for any recursive parser."""
    depth = rng.choice((10, 1000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"a = [", b"]"), (b"[a.", b"]")))
    return opening * depth + (closing * depth if rng.random() < 0.5 else b"")


TEXT: tuple[Mutation, ...] = (tokens, tokens, tokens, tokens, truncate, flip_bits, insert_noise, repeat_slice, nested)
