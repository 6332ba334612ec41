"""Writes docs/architecture.svg: python scripts/architecture.py

The picture is described below as boxes and arrows in pixels. Nothing is written if a text does not fit into
its box, or if an arrow runs through a text. Text widths are those of DejaVu Sans, which is wider than the fonts
that browsers use for system-ui.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "architecture.svg"
WIDTH, HEIGHT = 1020, 570
PAD = 12  # from a box's left edge to its text
MARGIN = 6  # that stays free inside every box
TITLE, TEXT = 15, 12.5  # font sizes
LINE = 18  # from one line of text to the next

ALT = (
    "A payload starts an execution of Step Functions. Initialize checks the payload and writes the plan to S3. "
    "Rendezvous starts the rendezvous host. A Distributed Map runs one Lambda function per rank: each rank "
    "reads partitions from S3, reduces its metrics with other ranks, which it meets through the rendezvous "
    "host, and writes its predictions to S3. Summarize reads all results and writes the summary and the report."
)
STYLE = """
rect{stroke-width:1.3} .arrow{stroke:#16202e;stroke-width:1.6;fill:none;marker-end:url(#head)}
.paper{fill:#fff} .box{fill:#f6f7f9;stroke:#566173} .group{fill:none;stroke:#a5b1c2}
.store{fill:#e7f0fb;stroke:#2456a6}
.head{fill:#16202e} .title{fill:#16202e;font-size:15px} .text{fill:#4a5566;font-size:12.5px}
@media (prefers-color-scheme: dark){
.paper{fill:#10161f} .box{fill:#1d2733;stroke:#a5b1c2} .group{stroke:#566173}
.store{fill:#14243a;stroke:#8ab4f8}
.arrow{stroke:#e8edf4} .head{fill:#e8edf4} .title{fill:#e8edf4} .text{fill:#b6c1d1}
}"""


class DrawingError(ValueError):
    """A text does not fit, or an arrow runs through one; the message names both."""


@dataclass(frozen=True)
class Area:
    """A rectangle: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def inner(self) -> Area:
        """The area without its margin."""
        return Area(self.x + MARGIN, self.y + MARGIN, self.width - 2 * MARGIN, self.height - 2 * MARGIN)

    def contains(self, other: Area) -> bool:
        return (
            self.x <= other.x
            and self.y <= other.y
            and other.x + other.width <= self.x + self.width
            and other.y + other.height <= self.y + self.height
        )

    def overlaps(self, other: Area) -> bool:
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


@dataclass(frozen=True)
class Text:
    """One line of text that begins at (x, baseline)."""

    x: float
    baseline: float
    words: str
    size: float = TEXT

    @property
    def area(self) -> Area:
        font = FontProperties(family="DejaVu Sans", size=self.size)
        width, height, descent = text_to_path.get_text_width_height_descent(self.words, font, ismath=False)
        return Area(self.x, self.baseline + descent - height, width, height)

    def svg(self) -> str:
        kind = "title" if self.size == TITLE else "text"
        return f'<text class="{kind}" x="{self.x:g}" y="{self.baseline:g}">{escape(self.words)}</text>'


@dataclass(frozen=True)
class Box:
    """A rectangle with a title and lines of text below it; `kind` is its class: box, group or store."""

    area: Area
    title: str
    lines: tuple[str, ...] = ()
    kind: str = "box"

    def texts(self) -> list[Text]:
        x, baseline = self.area.x + PAD, self.area.y + 24
        lines = (Text(x, baseline + LINE * number, line) for number, line in enumerate(self.lines, 1))
        return [Text(x, baseline, self.title, TITLE), *lines]

    def svg(self) -> str:
        a = self.area
        place = f'x="{a.x:g}" y="{a.y:g}" width="{a.width:g}" height="{a.height:g}"'
        return f'<rect class="{self.kind}" {place} rx="8"/>'


@dataclass(frozen=True)
class Arrow:
    """Horizontal and vertical lines through `points`, with a head at the last."""

    points: tuple[tuple[float, float], ...]

    def areas(self) -> list[Area]:
        """A strip of 4 pixels around each line."""
        strips = []
        for (x1, y1), (x2, y2) in zip(self.points, self.points[1:], strict=False):
            strips.append(Area(min(x1, x2) - 2, min(y1, y2) - 2, abs(x2 - x1) + 4, abs(y2 - y1) + 4))
        return strips

    def svg(self) -> str:
        path = "L".join(f"{x:g} {y:g}" for x, y in self.points)
        return f'<path class="arrow" d="M{path}"/>'


def _box(x: float, y: float, width: float, height: float, title: str, *lines: str, kind: str = "box") -> Box:
    return Box(Area(x, y, width, height), title, lines, kind)


BOXES = [
    _box(20, 88, 122, 60, "payload", "cosmicai run"),
    _box(170, 20, 830, 250, "Step Functions: one execution per run", kind="group"),
    _box(190, 88, 142, 60, "Initialize", "checks and plans"),
    _box(362, 88, 142, 60, "Rendezvous", "starts the host"),
    _box(534, 60, 276, 190, "Distributed Map", kind="group"),
    _box(554, 98, 150, 40, "rank 0: Lambda"),
    _box(554, 166, 150, 40, "rank 1: Lambda"),
    _box(840, 88, 142, 60, "Summarize", "adds up, reports"),
    _box(353, 306, 160, 60, "rendezvous host", "a small EC2 instance"),
    _box(20, 410, 980, 112, "S3: one bucket per team", kind="store"),
]
LABELS = [
    Text(566, 234, "… rank N − 1: Lambda", TITLE),
    Text(648, 156, "metrics, over TCP or S3"),
    Text(445, 292, "ranks meet here"),
    Text(205, 456, "run.json"),
    Text(205, 474, "manifest.json"),
    Text(205, 492, ".cosmicai/RUN/key"),
    Text(546, 456, "25MB/1.pt,"),
    Text(546, 474, "25MB/2.pt, …"),
    Text(680, 456, "predictions/{rank}.npz"),
    Text(680, 474, "{rank}.json"),
    Text(680, 492, "metrics.json"),
    Text(680, 510, "failures/{rank}.json"),
    Text(850, 456, "combined_data.json"),
    Text(850, 474, "summary.json"),
    Text(850, 492, "report.html"),
    Text(
        20,
        550,
        "Terraform provisions all of this: in the team's AWS account, or on one machine in an embedded AWS.",
    ),
]
ARROWS = [
    Arrow(((142, 118), (188, 118))),
    Arrow(((332, 118), (360, 118))),
    Arrow(((504, 118), (532, 118))),
    Arrow(((810, 118), (838, 118))),
    Arrow(((630, 166), (630, 140))),  # metrics, from rank to rank
    Arrow(((433, 148), (433, 304))),  # Rendezvous starts the host
    Arrow(((560, 250), (560, 336), (515, 336))),  # ranks meet through the host
    Arrow(((261, 148), (261, 408))),
    Arrow(((612, 410), (612, 252))),  # partitions
    Arrow(((750, 250), (750, 408))),
    Arrow(((911, 148), (911, 408))),
]


def draw(boxes: list[Box], labels: list[Text], arrows: list[Arrow]) -> str:
    """The SVG. Raises DrawingError."""
    texts = [*labels]
    for box in boxes:
        texts += box.texts()
        for text in box.texts():
            if not box.area.inner.contains(text.area):
                raise DrawingError(f"{text.words!r} does not fit into the box {box.title!r}")
    _check(texts, boxes, arrows)
    shapes = [*(box.svg() for box in boxes), *(arrow.svg() for arrow in arrows)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="system-ui, sans-serif" role="img" aria-labelledby="name description">',
            '<title id="name">How a run goes through CosmicAI</title>',
            f'<desc id="description">{escape(ALT)}</desc>',
            f"<style>{STYLE}\n</style>",
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto"><path class="head" d="M0 0 10 5 0 10z"/></marker></defs>',
            f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="10"/>',
            *shapes,
            *(text.svg() for text in texts),
            "</svg>\n",
        ]
    )


def _check(texts: list[Text], boxes: list[Box], arrows: list[Arrow]) -> None:
    page = Area(0, 0, WIDTH, HEIGHT)
    for number, text in enumerate(texts):
        if not page.contains(text.area):
            raise DrawingError(f"{text.words!r} leaves the picture")
        for other in texts[:number]:
            if text.area.overlaps(other.area):
                raise DrawingError(f"{text.words!r} covers {other.words!r}")
        for box in boxes:
            if box.area.overlaps(text.area) and not box.area.contains(text.area):
                raise DrawingError(f"{text.words!r} crosses the border of {box.title!r}")
        for arrow in arrows:
            if any(strip.overlaps(text.area) for strip in arrow.areas()):
                raise DrawingError(f"an arrow from {arrow.points[0]} runs through {text.words!r}")


if __name__ == "__main__":
    PICTURE.write_text(draw(BOXES, LABELS, ARROWS))
