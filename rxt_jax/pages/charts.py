"""Curves as inline SVG, in the colours of the page."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Curve", "draw_curves"]

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 22, 30
_COLOURS = 6


class Curve(NamedTuple):
    """Points (x, y) of one name; points that are not finite leave a gap. `colour` is a number from 0."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


def draw_curves(
    title: str, curves: Sequence[Curve], *, below: str = "", bounds: tuple[float, float] | None = None
) -> str:
    """Draw curves with axes, and a legend of the names where there are several. `bounds` fixes the vertical axis."""
    points = [point for curve in curves for point in curve.points if math.isfinite(point[1])]
    if not points:
        return ""
    left, right = _span([x for x, _ in points])
    low, high = bounds or _span([y for _, y in points])

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        return f"{across:.1f},{_HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    parts = [f'<text x="{_LEFT}" y="13">{escape(title)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = low + share * (high - low)
        at = place(left, y).split(",")[1]
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{float(at) + 4:.0f}" text-anchor="end">{y:.3g}</text>')
        x = left + share * (right - left)
        anchor = ("start", "middle", "end")[round(2 * share)]
        parts.append(
            f'<text x="{place(x, low).split(",")[0]}" y="{_HEIGHT - 15}" text-anchor="{anchor}">{x:.4g}</text>'
        )
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">{escape(below)}</text>')
    for curve in curves:
        for run in _runs(curve.points):
            dash = ' stroke-dasharray="4 3"' if curve.dashed else ""
            parts.append(
                f'<polyline fill="none" stroke="var(--c{curve.colour % _COLOURS})" stroke-width="1.6"{dash} '
                f'points="{" ".join(place(*point) for point in run)}"><title>{escape(curve.name)}</title></polyline>'
            )
    legend = "" if len(curves) < 2 else _legend(curves)
    label = escape(f"{title} of {', '.join(curve.name for curve in curves)}", quote=True)
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return (
        f'<figure style="margin:0"><svg role="img" aria-label="{label}" {size}>{"".join(parts)}</svg>{legend}</figure>'
    )


def _legend(curves: Sequence[Curve]) -> str:
    names = (
        f'<span style="color:var(--c{c.colour % _COLOURS})">{"╌" if c.dashed else "━"}</span> {escape(c.name)}'
        for c in curves
    )
    return (
        f'<figcaption class="faint" style="max-width:{_WIDTH}px;font-size:.8rem">{" &nbsp; ".join(names)}</figcaption>'
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Cut at points that are not finite; a single point becomes a short dash."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run if len(run) > 1 else run * 2 for run in runs if run]
