"""A few SVG shapes, escaped and measured: what :mod:`runner.graph.svg` draws with."""

from __future__ import annotations

SANS = "Inter, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO = "'JetBrains Mono', 'DejaVu Sans Mono', monospace"
INK, MUTED, LINE, PAPER = "#0f172a", "#64748b", "#94a3b8", "#f8fafc"

# Widths of DejaVu's glyphs in parts of the font size, rounded up: a font that is narrower fits too.
SANS_WIDTH, BOLD_WIDTH, MONO_WIDTH = 0.57, 0.65, 0.605


class Canvas:
    """Shapes in the order of drawing; the size is known when everything has been drawn."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._shapes: list[str] = []

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        stroke: str = "none",
        radius: int = 8,
    ) -> None:
        """A rectangle with round corners."""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" '
            f'fill="{fill}" stroke="{stroke}"/>'
        )

    def line(self, points: list[tuple[float, float]], colour: str = LINE, dash: str = "") -> None:
        """A line through points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dashed}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: int = 12,
        colour: str = INK,
        mono: bool = False,
        bold: bool = False,
        anchor: str = "start",
        room: float = 0,
    ) -> None:
        """One line with its baseline at ``y``; cut with an ellipsis where it is wider than ``room``."""
        shown = clipped(words, room, size, mono=mono, bold=bold) if room else words
        weight = ' font-weight="600"' if bold else ""
        self._shapes.append(
            f'<text xml:space="preserve" x="{x:g}" y="{y:g}" font-family="{MONO if mono else SANS}" '
            f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>{escaped(shown)}</text>'
        )

    def finish(self, height: float, title: str) -> str:
        """The document."""
        shapes = "\n".join(self._shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{height:g}" '
            f'viewBox="0 0 {self.width} {height:g}" role="img">\n'
            f"<title>{escaped(title)}</title>\n"
            f'<rect width="{self.width}" height="{height:g}" fill="{PAPER}"/>\n{shapes}\n</svg>\n'
        )


def width_of(words: str, size: int, *, mono: bool = False, bold: bool = False) -> float:
    """About how wide a line is, in pixels."""
    return len(words) * size * (MONO_WIDTH if mono else BOLD_WIDTH if bold else SANS_WIDTH)


def clipped(words: str, room: float, size: int, *, mono: bool = False, bold: bool = False) -> str:
    """``words``, or as much of them as fits with an ellipsis."""
    if width_of(words, size, mono=mono, bold=bold) <= room:
        return words
    fits = int(room / width_of("x", size, mono=mono, bold=bold)) - 1
    return words[: max(0, fits)].rstrip() + "…"


def wrapped(words: str, room: float, size: int, *, mono: bool = False) -> list[str]:
    """``words`` broken at spaces into lines that fit."""
    lines: list[str] = []
    for word in words.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size, mono=mono) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return [clipped(line, room, size, mono=mono) for line in lines]


def escaped(words: str) -> str:
    """Text inside an element; what XML cannot hold at all becomes a question mark."""
    kept = "".join(c if c >= " " else "?" for c in words)
    return kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
