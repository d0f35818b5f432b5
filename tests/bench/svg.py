"""Line charts as plain SVG: axes, lines, bands, labels. No more than the pictures of docs need."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 44, 52
INK, FAINT, GRID = "#222222", "#8a8a8a", "#e4e4e4"
BLUE, RED, GREEN, ORANGE, GREY = "#1f5fa8", "#b3261e", "#2c7a4b", "#c26a00", "#a3a3a3"

Points = Sequence[tuple[float, float]]


class Scale:
    """From values to pixels, linear or logarithmic."""

    def __init__(
        self, values: tuple[float, float], pixels: tuple[float, float], *, log: bool
    ) -> None:
        self._of = math.log if log else float
        self._low, self._high = self._of(values[0]), self._of(values[1])
        self._pixels = pixels
        self._limits = values

    def __call__(self, value: float) -> float:
        inside = min(max(value, self._limits[0]), self._limits[1])
        share = (self._of(inside) - self._low) / (self._high - self._low)
        return self._pixels[0] + share * (self._pixels[1] - self._pixels[0])


class Chart:
    """A chart with a title and two axes, whose ticks are (value, label)."""

    def __init__(
        self,
        title: str,
        x: tuple[str, Sequence[tuple[float, str]]],
        y: tuple[str, Sequence[tuple[float, str]]],
        *,
        log_x: bool = False,
        log_y: bool = False,
    ) -> None:
        limits = [(ticks[0][0], ticks[-1][0]) for _, ticks in (x, y)]
        self.x = Scale(limits[0], (LEFT, WIDTH - RIGHT), log=log_x)
        self.y = Scale(limits[1], (HEIGHT - BOTTOM, TOP), log=log_y)
        self._marks: list[str] = []
        self.text(LEFT, 24, title, size=15, weight="bold")
        for value, label in x[1]:
            self._rule((self.x(value), TOP), (self.x(value), HEIGHT - BOTTOM), GRID)
            self.text(self.x(value), HEIGHT - BOTTOM + 18, label, anchor="middle")
        for value, label in y[1]:
            self._rule((LEFT, self.y(value)), (WIDTH - RIGHT, self.y(value)), GRID)
            self.text(LEFT - 8, self.y(value) + 4, label, anchor="end")
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x[0], anchor="middle", fill=FAINT)
        self.text(LEFT, TOP - 6, y[0], fill=FAINT)

    def line(
        self,
        points: Points,
        colour: str,
        label: str = "",
        *,
        width: float = 2,
        dashed: bool = False,
        shift: float = 0,
    ) -> None:
        """A line with its label after its last point, moved by ``shift`` pixels."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self._marks.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"'
            f'{dash} stroke-linejoin="round"/>'
        )
        if label:
            x, y = points[-1]
            self.text(self.x(x) + 6, self.y(y) + 4 + shift, label, fill=colour)

    def band(self, lows: Points, highs: Points, colour: str) -> None:
        """The area between two lines."""
        around = [*lows, *reversed(highs)]
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in around)
        self._marks.append(f'<polygon points="{path}" fill="{colour}" fill-opacity="0.16"/>')

    def level(self, y: float, label: str, colour: str = INK) -> None:
        """A horizontal line across."""
        self._rule((LEFT, self.y(y)), (WIDTH - RIGHT, self.y(y)), colour, dashed=True)
        self.text(WIDTH - RIGHT + 6, self.y(y) + 4, label, fill=colour)

    def moment(self, x: float, label: str) -> None:
        """A vertical line."""
        self._rule((self.x(x), TOP), (self.x(x), HEIGHT - BOTTOM), FAINT, dashed=True)
        self.text(self.x(x) + 5, TOP + 14, label, fill=FAINT)

    def dot(self, x: float, y: float, colour: str, label: str = "") -> None:
        """A point, its label to the right below."""
        self._marks.append(
            f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="4" fill="{colour}"/>'
        )
        if label:
            self.text(self.x(x) + 7, self.y(y) + 15, label, fill=colour)

    def write(self, path: Path) -> None:
        """The picture as a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="Helvetica, Arial, sans-serif">\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
            + "\n".join(self._marks)
            + "\n</svg>\n"
        )

    def _rule(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        colour: str,
        *,
        dashed: bool = False,
    ) -> None:
        dash = ' stroke-dasharray="3 3"' if dashed else ""
        self._marks.append(
            f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
            f'stroke="{colour}"{dash}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        fill: str = INK,
        size: int = 12,
        weight: str = "normal",
    ) -> None:
        """Words at a place given in pixels."""
        self._marks.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
            f'fill="{fill}" text-anchor="{anchor}">{escape(text)}</text>'
        )
