"""Pages that need nothing else: escaped elements, pictures as data, and small SVG charts.

Whatever is not `Html` is escaped when it becomes a child or an attribute of an element, so text of
a model or of a data set cannot turn into markup.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from PIL import Image

from braid.errors import BraidError
from braid.modalities.sounds import Sound

DASH = "–"
SMALL = 96
"""Pictures up to this many pixels a side are enlarged without smoothing."""

Points = Sequence[tuple[float, float]]
Attribute = str | int | float | bool | None

_VOID = ("br", "col", "img", "input", "meta")
_WIDE, _HIGH = 480, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 34


class Html(str):
    """Markup that is already escaped."""

    __slots__ = ()


Child = str | Html | None | Iterable["Child"]


def element(tag: str, *children: Child, **attributes: Attribute) -> Html:
    """Return an element; attributes that are None or False are left out.

    `class_` stands for class, and an underscore for a dash.
    """
    words = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        words.append(name if value is True else f'{name}="{html.escape(str(value))}"')
    opening = f"<{' '.join(words)}>"
    if tag in _VOID:
        return Html(opening)
    return Html(f"{opening}{join(*children)}</{tag}>")


def join(*children: Child) -> Html:
    """Return children one after the other; what is not markup is escaped."""
    out: list[str] = []
    for child in children:
        if isinstance(child, Html):
            out.append(child)
        elif isinstance(child, str):
            out.append(html.escape(child))
        elif child is not None:
            out.append(join(*child))
    return Html("".join(out))


def page(title: str, *body: Child) -> str:
    """Return a whole page."""
    return _PAGE.substitute(title=html.escape(title), style=_STYLE, body=join(*body))


def save(path: Path, text: str) -> Path:
    """Write a text file, or say why it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise BraidError(
            f"cannot write {str(path)!r} ({e.strerror or e}); choose another folder"
        ) from e
    return path


def section(title: str, *body: Child, note: str | None = None) -> Html:
    """Return a headed part of a page."""
    about = element("p", note, class_="note") if note else None
    return element("section", element("h2", title), about, *body)


def tile(label: str, value: str, note: Child = None) -> Html:
    """Return one number in large type."""
    parts = [("label", label), ("value", value), ("note", note)]
    return element("div", [element("div", v, class_=k) for k, v in parts if v], class_="tile")


def table(head: Sequence[Child], rows: Iterable[Sequence[Html]], class_: str = "") -> Html:
    """Return a table; rows hold finished cells."""
    top = element("tr", [element("th", h, scope="col") for h in head])
    body = element("tbody", [element("tr", row) for row in rows])
    inner = element("table", element("thead", top), body, class_=class_ or None)
    return element("div", inner, class_="scroll", tabindex="0")


def row_head(text: Child, note: Child = None) -> Html:
    """Return the first cell of a row."""
    small = element("small", note) if note else None
    return element("th", text, small, scope="row")


def data_uri(picture: Image.Image, form: str = "PNG") -> str:
    """Return a picture as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, form, optimize=True)
    return data_uri_of(buffer.getvalue(), form)


def data_uri_of(content: bytes, form: str) -> str:
    """Return the bytes of a picture file as a data URI."""
    return f"data:image/{form.lower()};base64,{base64.b64encode(content).decode('ascii')}"


def image(picture: Image.Image, text: str) -> Html:
    """Return an inline picture with its alternative text."""
    w, h = picture.size
    sharp = "pixels" if max(w, h) <= SMALL else None
    return element("img", src=data_uri(picture), alt=text, width=w, height=h, class_=sharp)


def panel(title: str, rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Html:
    """Return rows of captioned pictures as a grid.

    A title such as "Repaired: damaged, repaired, real" names its three rows; where all rows have
    the same captions, they stand once.
    """
    head, _, tail = title.rpartition(":")
    names = [n.strip() for n in tail.split(",")]
    named = bool(head) and len(names) == len(rows)
    captions = [[c for c, _ in row] for row in rows]
    once = named and all(c == captions[0] for c in captions)
    cells: list[Html] = []
    for i, row in enumerate(rows):
        if named:
            cells.append(element("div", names[i], class_="row"))
        last = i + 1 == len(rows)
        cells += [_cell(c, p, not once or last) for c, p in row]
        short = max(map(len, rows)) - len(row)
        cells += [element("div")] * short
    columns = max((len(r) for r in rows), default=1)
    longest = max((len(c) for row in captions for c in row), default=0)
    least = 44 if longest <= 12 else 72 if longest <= 24 else 104
    style = f"--columns: {columns}; --half: {-(-columns // 2)}; --least: {least}px"
    kind = "grid named" if named else "grid"
    grid = element("div", cells, class_=kind, style=style)
    shown = head if named else title
    scroll = element("div", grid, class_="scroll", tabindex="0")
    return element("figure", element("figcaption", shown, class_="title"), scroll, class_="panel")


def _cell(caption: str, picture: Image.Image, shown: bool) -> Html:
    below = element("figcaption", caption) if shown else None
    return element("figure", image(picture, caption), below, class_="cell")


def sounds(title: str, clips: Sequence[tuple[str, Sound]]) -> Html:
    """Return captioned clips with players."""
    cells = []
    for caption, clip in clips:
        wav = io.BytesIO()
        clip.save(wav)
        data = base64.b64encode(wav.getvalue()).decode("ascii")
        player = element("audio", class_="clip", controls="", src=f"data:audio/wav;base64,{data}")
        cells.append(element("figure", player, element("figcaption", caption), class_="cell"))
    grid = element(
        "div", cells, class_="grid clips", style="--columns: 4; --half: 2; --least: 200px"
    )
    return element("figure", element("figcaption", title, class_="title"), grid, class_="panel")


def plain(value: object) -> str:
    """Return a number for people: grouped digits, or four that count; a dash for None."""
    if value is None:
        return DASH
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 10**12 else f"{value:.3g}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"
    return str(value)


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal."""
    return f"{100 * value:.1f} %"


def short(value: float) -> str:
    """Return a number in at most a few characters, such as 1.2M."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time span in words."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def line_chart(name: str, points: Points, x_label: str = "step") -> Html:
    """Return a curve over its raw points; logarithmic where they span more than a factor of 30."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    logarithmic = min(ys) > 0 and max(ys) / min(ys) > 30
    x_axis = _Axis(0.0, max(xs), _LEFT, _WIDE - _RIGHT)
    spare = 0.0 if logarithmic else 0.06 * (max(ys) - min(ys))
    ends = min(ys) - spare, max(ys) + spare
    y_axis = _Axis(*ends, _HIGH - _BOTTOM, _TOP, logarithmic)
    points = _thin(points)
    smooth = _smooth(points)
    drawn = [_axes(x_axis, y_axis, x_label), _curve(points, x_axis, y_axis, "raw")]
    if len(points) > 1:
        drawn.append(_curve(smooth, x_axis, y_axis, "curve"))
    drawn.append(_dot(x_axis.at(smooth[-1][0]), y_axis.at(smooth[-1][1])))
    text = f"{name}: {short(ys[0])} at the first, {short(ys[-1])} at the last of {len(ys)} points"
    svg = element("svg", drawn, viewBox=f"0 0 {_WIDE} {_HIGH}", role="img", aria_label=text)
    side = f"{'log scale, ' if logarithmic else ''}now {short(smooth[-1][1])}"
    head = element("figcaption", name, element("span", side), class_="title")
    return element("figure", head, svg, class_="chart")


def bar_chart(
    name: str,
    bars: Sequence[tuple[str, float | None]],
    note: str = "",
    share: bool = False,
    line: tuple[str, float] | None = None,
) -> Html:
    """Return one horizontal bar a name.

    Args:
        name: what is measured.
        bars: names and values; None is shown as a dash.
        note: which direction is better.
        share: values are shares: the axis ends at 1, and they are written as percentages.
        line: name and value of a reference.
    """
    values = [v for _, v in bars if v is not None] + ([line[1]] if line else [])
    axis = _Axis(0.0, 1.0 if share else max([*values, 1e-9]), 112, _WIDE - 64)
    height = 30 * len(bars) + (22 if line else 4)
    drawn = [_bar(i, n, v, axis, share) for i, (n, v) in enumerate(bars)]
    if line:
        drawn.append(_reference(line, axis, height, share))
    said = ", ".join(f"{n} {DASH if v is None else _written(v, share)}" for n, v in bars)
    svg = element(
        "svg", drawn, viewBox=f"0 0 {_WIDE} {height}", role="img", aria_label=f"{name}: {said}"
    )
    head = element("figcaption", name, element("span", note), class_="title")
    return element("figure", head, svg, class_="chart")


def _written(value: float, share: bool) -> str:
    return percent(value) if share else short(value)


def _bar(i: int, name: str, value: float | None, axis: _Axis, share: bool) -> list[Html]:
    y = 30 * i
    label = element("text", name, x=104, y=y + 19, class_="name end")
    if value is None:
        return [label, element("text", DASH, x=axis.start + 4, y=y + 19, class_="tick")]
    wide = max(1.5, axis.at(value) - axis.start)
    bar = element("rect", x=axis.start, y=y + 4, width=round(wide, 1), height=22, rx=3)
    said = element("text", _written(value, share), x=axis.start + wide + 6, y=y + 19, class_="name")
    return [label, bar, said]


def _reference(line: tuple[str, float], axis: _Axis, height: int, share: bool) -> list[Html]:
    x = axis.at(line[1])
    late = x > (axis.start + axis.end) / 2
    words = f"{line[0]} {_written(line[1], share)}"
    return [
        element("line", x1=x, x2=x, y1=0, y2=height - 16, class_="reference"),
        element("text", words, x=x, y=height - 3, class_="tick end" if late else "tick"),
    ]


class _Axis:
    """Maps values between `low` and `high` to places between `start` and `end`."""

    def __init__(
        self, low: float, high: float, start: float, end: float, logarithmic: bool = False
    ) -> None:
        self.start, self.end, self.logarithmic = start, end, logarithmic
        self.low, self.high = (self._scale(v) for v in (low, high))
        if self.high <= self.low:
            self.high = self.low + max(1.0, 1e-9 * abs(self.low))  # 1e17 + 1 is 1e17

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def at(self, value: float) -> float:
        """Return the place of a value."""
        share = (self._scale(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Return about four round values."""
        if self.logarithmic:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            few = (1, 2, 5) if len(powers) <= 3 else (1,)
            found = [k * 10.0**p for p in powers[:: max(1, len(powers) // 5)] for k in few]
            return [v for v in found if self.low <= math.log10(v) + 1e-9 <= self.high + 2e-9]
        rough = (self.high - self.low) / 4
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * k for k in range(first, last + 1)]


def _axes(x_axis: _Axis, y_axis: _Axis, x_label: str) -> list[Html]:
    out: list[Html] = []
    for value in y_axis.ticks():
        y = y_axis.at(value)
        out.append(element("line", x1=x_axis.start, x2=x_axis.end, y1=y, y2=y, class_="rule"))
        out.append(element("text", short(value), x=_LEFT - 7, y=y + 4, class_="tick end"))
    for value in x_axis.ticks():
        x, last = x_axis.at(value), value > 0.97 * x_axis.high
        kind = "tick end" if last else "tick middle"
        out.append(element("text", short(value), x=x, y=_HIGH - 17, class_=kind))
    out.append(element("text", x_label, x=x_axis.end, y=_HIGH - 2, class_="tick end"))
    return out


def _curve(points: Points, x_axis: _Axis, y_axis: _Axis, kind: str) -> Html:
    places = " ".join(f"{x_axis.at(x)},{y_axis.at(y)}" for x, y in points)
    return element("polyline", points=places, class_=kind)


def _dot(x: float, y: float) -> Html:
    return element("circle", cx=x, cy=y, r=3.5, class_="dot")


def _thin(points: Points, most: int = 400) -> Points:
    """Return the means of neighbours where there are more points than a chart can show."""
    size = -(-len(points) // most)
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in bins]


def _smooth(points: Points) -> Points:
    """Return the mean of each point and its neighbours; few points stay as they are."""
    reach = len(points) // 24
    out: list[tuple[float, float]] = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i)  # as many on the left as on the right, so that a steep start stays put
        window = [y for _, y in points[i - near : i + near + 1]]
        out.append((x, sum(window) / len(window)))
    return out


# No request leaves the page, whatever is in it: the policy forbids them.
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")

_LIGHT = """--paper: #f5f6f8; --card: #ffffff; --ink: #191c22; --soft: #5a616e; --line: #dfe2e8;
  --accent: #2b5fd9; --faint: #2b5fd94d; --best: #e6eefc; --mark: #b54708;"""
_DARK = """--paper: #101217; --card: #191c23; --ink: #e9ebef; --soft: #a0a7b4; --line: #2d323c;
  --accent: #7ea6ff; --faint: #7ea6ff59; --best: #22304d; --mark: #f0a35e;"""

_STYLE = (
    Template("""
:root { color-scheme: light dark; $light }
@media (prefers-color-scheme: dark) { :root { $dark } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: clamp(20px, 4vw, 48px) clamp(14px, 4vw, 40px); }
h1 { font-size: clamp(1.6rem, 5vw, 2.2rem); line-height: 1.2; margin: 0 0 .3em;
  letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 .5em; letter-spacing: -.01em; }
h3 { font-size: 1.05rem; margin: 0 0 .5em; }
p { margin: 0 0 1em; max-width: 74ch; }
a { color: var(--accent); }
code { font: .875em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
small, .note { color: var(--soft); font-size: .85rem; }
section { margin-top: 2.6rem; }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; }
.pixels { image-rendering: pixelated; }
.lead { font-size: 1.15rem; color: var(--soft); margin: 0 0 .8em; }
.eyebrow { color: var(--soft); font-size: .85rem; margin: 0 0 .4em; }
.tiles { display: grid; gap: 12px; margin-top: 1.6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 184px), 1fr)); }
.tile, .card, .chart, .panel { background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 16px 18px; }
.tile .label { color: var(--soft); font-size: .85rem; }
.tile .value { font-size: 1.9rem; line-height: 1.25; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tile .note { line-height: 1.4; margin-top: .25em; }
.charts { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.panel + .panel, .card + .card { margin-top: 12px; }
.title { font-weight: 600; font-size: .95rem; margin-bottom: .7em; }
.chart .title { display: flex; justify-content: space-between; gap: 1em; }
.chart .title span { color: var(--soft); font-weight: 400; font-size: .85rem; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--soft); }
svg .name { fill: var(--ink); font-size: 13px; }
svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; }
svg .rule { stroke: var(--line); }
svg .raw, svg .curve { fill: none; stroke-linejoin: round; stroke-linecap: round; }
svg .raw { stroke: var(--faint); stroke-width: 1.2; }
svg .curve { stroke: var(--accent); stroke-width: 2.2; }
svg .dot, svg rect { fill: var(--accent); }
svg .reference { stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 4 3; }
.scroll { overflow-x: auto; }
.grid { display: grid; gap: 10px 8px; align-items: start;
  grid-template-columns: repeat(var(--columns), minmax(var(--least), 112px)); }
.grid.named { grid-template-columns: max-content repeat(var(--columns), minmax(44px, 112px)); }
.grid .row { color: var(--soft); font-size: .85rem; padding: .6em 6px 0 0; }
.cell img { width: 100%; border-radius: 4px; outline: 1px solid var(--line); }
.cell figcaption { color: var(--soft); font-size: .78rem; line-height: 1.3; margin-top: 4px;
  text-align: center; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 7px 14px 7px 0; font-weight: 400;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-size: .85rem; white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
td.number, .sheet td, .sheet thead th + th { text-align: right; white-space: nowrap; }
td small, th small { display: block; line-height: 1.35; }
.numbers td.note { width: 55%; }
.numbers thead th + th { text-align: right; }
.sheet td, .sheet th + th { padding: 7px 10px; }
.sheet tbody th { min-width: 11em; position: sticky; left: 0; background: var(--card); }
.sheet td small { white-space: normal; max-width: 11em; margin-left: auto; }
.best { background: var(--best); font-weight: 650; border-radius: 6px; }
.paradigm { margin-top: 1.8rem; }
.paradigm > * + .charts, .paradigm > .panel { margin: 12px 0; }
.strip { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 8px 14px;
  align-items: center; }
.strip div { color: var(--soft); font-size: .85rem; text-align: right; }
.strip img { border-radius: 4px; }
.film { display: grid; gap: 16px 32px; align-items: center;
  grid-template-columns: minmax(0, 600px) minmax(220px, 1fr); }
.player { display: grid; gap: 10px; }
.player[hidden] { display: none; }
.film img { width: 100%; border-radius: 8px; background: #15171d; }
.legend { list-style: none; margin: 0; padding: 0; display: grid; gap: 10px; font-size: .9rem; }
.legend b { font-weight: 600; }
.controls { display: flex; gap: 12px; align-items: center; }
.controls button { font: inherit; color: var(--ink); background: var(--paper); cursor: pointer;
  border: 1px solid var(--line); border-radius: 8px; padding: 6px 14px; min-width: 5.5em; }
.controls input { flex: 1; min-width: 0; accent-color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
footer { margin-top: 2.6rem; color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .tile, .card, .chart, .panel { padding: 12px 13px; }
  .tile .value { font-size: 1.5rem; }
  .sheet tbody th { min-width: 8em; }
  svg text { font-size: 15px; }
  svg .name { font-size: 16px; }
  .grid:not(.named) { grid-template-columns: repeat(var(--half), minmax(0, 1fr)); }
  .film { grid-template-columns: minmax(0, 1fr); }
  .numbers thead, .stack thead { display: none; }
  .numbers tr, .stack tr { display: grid; grid-template-columns: minmax(0, 1fr) auto;
    border-bottom: 1px solid var(--line); padding: 6px 0; }
  .stack tr { grid-template-columns: 5em minmax(0, 1fr); }
  .numbers th, .numbers td, .stack th, .stack td { border: 0; padding: 1px 0; }
  .numbers td.note { grid-column: 1 / -1; width: auto; }
  .stack th { grid-column: 1 / -1; font-weight: 600; }
  .stack td { grid-column: 1 / -1; display: grid; grid-template-columns: subgrid; }
  .stack td::before { content: attr(data-label); color: var(--soft); font-size: .85rem; }
}
@media print {
  :root { color-scheme: light; $light }
  html { font-size: 10pt; }
  body { background: none; font-size: 1rem; }
  main { max-width: none; padding: 0; }
  section { margin-top: 1.6rem; }
  .tiles { grid-template-columns: repeat(5, minmax(0, 1fr)); }
  .tile, .card, .chart, .panel { padding: 8px 10px; }
  .controls, noscript { display: none; }
  .scroll { overflow: visible; }
  .grid:not(.named) { grid-template-columns: repeat(var(--columns), minmax(0, 112px)); }
  .tile, .chart, .panel, .film, .strip, tr { break-inside: avoid; }
  h2, h3, .title, section > .note { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
""")
    .substitute(light=_LIGHT, dark=_DARK)
    .strip()
)
