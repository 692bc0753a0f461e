"""The scores as a table for a terminal of 80 columns, with the protocol and the LPIPS net named first."""

from __future__ import annotations

import textwrap
from typing import Any

WIDTH = 80


def table(summary: dict[str, Any]) -> str:
    """Return the summary of `pbvs.score` as text, lines of at most 80 characters."""
    protocol, lpips = summary["protocol"], summary["lpips"]
    name = "LPIPS" if lpips["is_lpips"] else "random"
    lines = [
        f"Run {summary['run']}, split {summary['split']}, protocol {protocol['name']}",
        *_wrap(f"{_rule(protocol)}; lower is better. {_net(lpips)}"),
        "",
        f"{'task':<9}{'images':>9}{'L1':>9}{'L2':>9}{name:>9}{_fid_head(summary)}{'score':>9}  95 % interval",
    ]
    lines += [_row(task, facts, summary) for task, facts in summary["tasks"].items()]
    blank = " " * (36 + (9 if _has_fid(summary) else 0))
    mark = " (partial)" if summary["partial"] else ""
    lines.append(f"{'combined':<9}{blank}{summary['combined']:>9.4f}{_interval(summary['interval'])}{mark}".rstrip())
    lines += _sensitivity(summary["sensitivity"])
    for note in summary["notes"]:
        lines += _wrap(f"Note: {note}")
    return "\n".join(lines)


def _rule(protocol: dict[str, Any]) -> str:
    """Say every choice of the protocol that a number depends on."""
    fid = [f"FID at layer {protocol['fid_layer']}, w {protocol['fid_weight']:g}"] if "fid" in protocol["terms"] else []
    sizes = {
        "recipe": "the recipe's evaluation size",
        "native": "the target's own size",
        "challenge": "256 and 1024 px",
    }
    parts = [
        f"Score: {protocol['description'] or 'mean of ' + ', '.join(protocol['terms'])}",
        f"pixel error {protocol['pixel']} on [0, 1]",
        *fid,
        f"at {sizes[protocol['evaluation_size']]} ({protocol['resampling']}; other sizes: {protocol['other_size']})",
        f"a missing task counts {protocol['missing_counts']:g} and adds {protocol['missing_adds']:g}",
    ]
    return "; ".join(parts)


def _net(lpips: dict[str, Any]) -> str:
    if lpips["is_lpips"]:
        return f"LPIPS is of {lpips['net']}, v{lpips['version']}."
    return "The column random is NOT LPIPS: a network with random weights, for wiring checks only."


def _sensitivity(rows: list[dict[str, Any]]) -> list[str]:
    """Return the combined score under each reading that is not settled, when there is more than one."""
    if len(rows) < 2:
        return []
    texts = [f"{row['reading']} {row['combined']:.4f}" for row in rows]
    return _wrap(f"Combined under each reading: {'; '.join(texts)}.")


def _has_fid(summary: dict[str, Any]) -> bool:
    return any(facts["fid"] is not None for facts in summary["tasks"].values())


def _fid_head(summary: dict[str, Any]) -> str:
    return f"{'FID':>9}" if _has_fid(summary) else ""


def _row(task: str, facts: dict[str, Any], summary: dict[str, Any]) -> str:
    names = ["l1", "rmse", "lpips", *(["fid"] if _has_fid(summary) else []), "score"]
    count = f"{facts['images']}/{facts['expected']}"
    numbers = "".join(_number(facts[name], 1 if name == "fid" else 4) for name in names)
    state = "" if facts["status"] == "scored" else f"  {facts['status']}"
    return f"{task:<9}{count:>9}{numbers}{_interval(facts['interval'])}{state}"


def _number(value: float | None, digits: int) -> str:
    return f"{'-':>9}" if value is None else f"{value:>9.{digits}f}"


def _interval(interval: list[float] | None) -> str:
    return "" if interval is None else f"  {interval[0]:.3f}-{interval[1]:.3f}"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False)
