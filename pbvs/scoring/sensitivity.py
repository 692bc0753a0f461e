"""What the combined score would be under the readings of the rule that are not settled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pbvs.scoring.protocol import Protocol

Components = Mapping[str, Mapping[str, Any]]  # task -> l1, mse, rmse, lpips and `fids`, its FID at each layer


def readings(protocol: Protocol) -> Iterator[tuple[str, Protocol]]:
    """Yield the protocol and those that differ from it in what it calls unsettled, with what each is called."""
    yield "as stated", protocol
    for pixel in protocol.unsettled_pixel:
        if pixel != protocol.pixel and "pixel" in protocol.terms:
            yield f"pixel error {pixel}", protocol.model_copy(update={"pixel": pixel})
    if not protocol.needs_fid:
        return
    layers = protocol.unsettled_fid_layer or (protocol.fid_layer,)
    weights = protocol.unsettled_fid_weight or (protocol.fid_weight,)
    for layer in layers:
        for weight in weights:
            if (layer, weight) != (protocol.fid_layer, protocol.fid_weight):
                yield (
                    f"FID layer {layer}, w {weight:g}",
                    protocol.model_copy(update={"fid_layer": layer, "fid_weight": weight}),
                )


def sensitivity(protocol: Protocol, tasks: Components) -> list[dict[str, Any]]:
    """Return {reading, combined, tasks} for each reading; a task without a score is None and counts as missing."""
    rows = []
    for name, reading in readings(protocol):
        scores = {task: _score(reading, facts) for task, facts in tasks.items()}
        rows.append({"reading": name, "combined": reading.combined(scores), "tasks": scores})
    return rows


def _score(protocol: Protocol, facts: Mapping[str, Any]) -> float | None:
    if facts["lpips"] is None:
        return None
    fids = facts.get("fids") or {}
    return protocol.task_score({**facts, "fid": fids.get(str(protocol.fid_layer))})
