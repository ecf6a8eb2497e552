r"""Draws a trace as a waterfall: the picture in `docs/how-to/observe.md`.

    OPSIN_TEST_TRACES=spans.json python -m pytest tests/flow/test_traces.py
    python -m benchmarks.observability.trace_picture \
        spans.json "POST /v1/heatmap" docs/images/traces.svg

The first command leaves the spans that a collector received. A batch that the trace links to is
drawn below it.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Span = dict[str, Any]

WIDTH, LEFT, ROW, TOP = 900, 250, 22, 34
COLORS = {
    "opsin-api": "#3f78b5",
    "opsin-worker": "#c26a2d",
    "opsin-jobs": "#4a8f5c",
    "opsin-job": "#7d5ba6",
}


def main() -> None:
    """Draw the first trace whose first span has that name."""
    parser = argparse.ArgumentParser(description="Draws a trace.")
    parser.add_argument("spans", type=Path)
    parser.add_argument("name")
    parser.add_argument("svg", type=Path)
    options = parser.parse_args()
    spans: list[Span] = json.loads(options.spans.read_text())
    root = next(span for span in spans if span["name"] == options.name)
    rows = in_order([span for span in spans if span["trace_id"] == root["trace_id"]])
    for batch in linked(spans, root["trace_id"]):
        parts = [span for span in spans if span["trace_id"] == batch]
        rows += [(depth, span) for depth, span in in_order(parts)]
    options.svg.write_text(drawing(rows, root))


def linked(spans: list[Span], trace_id: str) -> list[str]:
    """The traces that this one links to."""
    own = [span for span in spans if span["trace_id"] == trace_id]
    return list(dict.fromkeys(link[0] for span in own for link in span["links"]))


def in_order(spans: list[Span]) -> list[tuple[int, Span]]:
    """Each span after its parent, with its depth."""
    known = {span["span_id"] for span in spans}
    rows: list[tuple[int, Span]] = []

    def add(parent: Span, depth: int) -> None:
        rows.append((depth, parent))
        children = [span for span in spans if span["parent_id"] == parent["span_id"]]
        for child in sorted(children, key=lambda span: int(span["began"])):
            add(child, depth + 1)

    for span in spans:
        if span["parent_id"] not in known:
            add(span, 0)
    return rows


def drawing(rows: list[tuple[int, Span]], root: Span) -> str:
    """The picture as SVG."""
    first = min(span["began"] for _, span in rows)
    last = max(span["ended"] for _, span in rows)
    scale = (WIDTH - LEFT - 80) / max(1, last - first)
    height = TOP + ROW * len(rows) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(root['name'])}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-weight="bold">{escape(root["name"])}: '
        f"{(root['ended'] - root['began']) / 1e6:.1f} ms</text>",
    ]
    for number, (depth, span) in enumerate(rows):
        parts += _row(
            TOP + ROW * number, depth, span, LEFT + (span["began"] - first) * scale, scale
        )
    parts += _legend(height - 12, {span["resource"]["service.name"] for _, span in rows})
    return "\n".join([*parts, "</svg>", ""])


def _row(y: int, depth: int, span: Span, x: float, scale: float) -> list[str]:
    seconds = (span["ended"] - span["began"]) / 1e9
    width = max(1.5, (span["ended"] - span["began"]) * scale)
    color = COLORS.get(span["resource"]["service.name"], "#666666")
    shown = f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
    return [
        f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y + ROW}" y2="{y + ROW}" stroke="#eeeeee"/>',
        f'<text x="{10 + 16 * depth}" y="{y + 15}" fill="#222222">{escape(span["name"])}</text>',
        f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="{ROW - 8}" fill="{color}"/>',
        f'<text x="{x + width + 5:.1f}" y="{y + 15}" fill="#555555" font-size="11">{shown}</text>',
    ]


def _legend(y: int, services: set[str]) -> list[str]:
    parts = []
    for number, service in enumerate(name for name in COLORS if name in services):
        x = 10 + 140 * number
        parts += [
            f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{COLORS[service]}"/>',
            f'<text x="{x + 18}" y="{y}" fill="#222222">{service}</text>',
        ]
    return parts


if __name__ == "__main__":
    main()
