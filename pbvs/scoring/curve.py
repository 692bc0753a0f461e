"""The score over the intensity factor as one small SVG file, readable without anything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbvs.scoring.calibrate import Calibration

WIDTH, HEIGHT, MARGIN = 560, 320, 48
LINES = {"score": "#1b4f8a", "rmse": "#b3561d", "lpips": "#3c7a3c"}


def draw_curve(result: Calibration) -> str:
    """Return SVG: score, RMSE and LPIPS on training pairs over the factor, the recipe's factor and the one found."""
    factors = [point.intensity for point in result.curve]
    top = max(max(point.score, point.rmse, point.lpips) for point in result.curve) * 1.05 or 1.0
    low, high = min(factors), max(factors)

    def x(value: float) -> float:
        return MARGIN + (value - low) / ((high - low) or 1.0) * (WIDTH - 2 * MARGIN)

    def y(value: float) -> float:
        return HEIGHT - MARGIN - value / top * (HEIGHT - 2 * MARGIN)

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    parts += [_tick_x(x(value), f"{value:.2f}") for value in _steps(low, high)]
    parts += [_tick_y(y(value), f"{value:.2f}") for value in _steps(0.0, top)]
    for number, (name, colour) in enumerate(LINES.items()):
        points = " ".join(f"{x(point.intensity):.1f},{y(getattr(point, name)):.1f}" for point in result.curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            _text(WIDTH - MARGIN - 60, MARGIN + 16 * number, name.upper() if name != "score" else name, colour)
        )
    marks = (("recipe", result.before.intensity, "#888888"), ("found", result.after.intensity, "#000000"))
    for row, (name, value, colour) in enumerate(marks):
        if low <= value <= high:
            parts.append(_mark(x(value), f"{name} {value:g}", colour, row))
    title = f"{result.task}: score over the intensity factor, {result.images} training pairs"
    parts.append(_text(MARGIN, 20, title, "#000000"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, f"<title>{title}</title>", *parts, "</svg>", ""])


def _steps(low: float, high: float, count: int = 5) -> Sequence[float]:
    return [low + (high - low) * number / (count - 1) for number in range(count)]


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" fill="{colour}" text-anchor="{anchor}">{text}</text>'


def _tick_x(x: float, text: str) -> str:
    return _text(x, HEIGHT - MARGIN + 18, text, "#444444", "middle")


def _tick_y(y: float, text: str) -> str:
    line = f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
    return line + _text(MARGIN - 6, y + 4, text, "#444444", "end")


def _mark(x: float, text: str, colour: str, row: int) -> str:
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{MARGIN}" y2="{HEIGHT - MARGIN}" stroke="{colour}" '
    return line + 'stroke-dasharray="4 3"/>' + _text(x + 4, HEIGHT - MARGIN - 6 - 16 * row, text, colour)
