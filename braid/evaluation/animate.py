"""A generation as moving pictures: what the model read at each network call, and what it believed.

Tokens of which the belief changed since the frame before are outlined; masks and tokens that do not
exist yet are hatched.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from braid.errors import BraidError
from braid.generation import Frame
from braid.modalities import Modality
from braid.parts import Parts
from braid.pipeline import Pipeline
from braid.spaces import Discrete

STAGE, INK, SOFT, LINE = "#15171d", "#eceef2", "#9aa1ae", "#3a404c"
MASKED, STRIPE, CHANGED, BOX = "#2c3242", "#5b6787", "#ff9f43", "#262b36"

_PAD = 16
_HEAD, _FOOT = 28, 44
_SIDE = 256  # pixels that a side of a picture is enlarged to, about
_LINE = 640  # width at which tokens of a text wrap
_MOVED = 0.25  # part of its limit by which a number must move to count as changed


@dataclass(frozen=True)
class Writer:
    """What is needed to show the tokens of a strand.

    Attributes:
        modality: turns tokens into raw data.
        causal: a token is predicted before it is read.
    """

    modality: Modality
    causal: bool = False


@dataclass(frozen=True)
class _Moment:
    """One frame before it is drawn; tensors are [n, ...] over all tokens of the hole.

    Attributes:
        caption: left and right half of the line below.
        done: share of the network calls that are done.
        state: tokens that were read, where `read` holds.
        belief: most likely clean tokens, where `believed` holds.
        changed: the belief is another one than in the frame before.
        said: the result, where its tokens are not known; it is then shown as a whole.
    """

    caption: tuple[str, str]
    done: float
    state: Tensor
    read: Tensor
    belief: Tensor
    believed: Tensor
    changed: Tensor
    said: str | None = None


def animate(pipe: Pipeline, parts: Parts, part: int, path: Path, scale: int | None = None) -> None:
    """Write the generation of a hole as a GIF that rests on its result.

    Args:
        pipe: made the parts.
        parts: a result with its trajectory.
        part: number of the hole.
        path: file to write.
        scale: enlargement of a pixel, or of the letters of a text; None chooses one.
    """
    content = gif(frames(pipe, parts, part, scale))
    try:
        Path(path).write_bytes(content)
    except OSError as e:
        raise BraidError(
            f"cannot write {str(path)!r} ({e.strerror or e}); use a name such as steps.gif in a "
            "folder that can be written"
        ) from e


def frames(pipe: Pipeline, parts: Parts, part: int, scale: int | None = None) -> list[Image.Image]:
    """Return a picture of each network call of a hole, and one of the result."""
    strands = pipe.braid.strands.items()
    writers = {n: Writer(s.modality, s.causal) for n, s in strands if s.process is not None}
    return draw(writers, parts, part, scale)


def draw(
    writers: Mapping[str, Writer],
    parts: Parts,
    part: int,
    scale: int | None = None,
    most: int | None = None,
) -> list[Image.Image]:
    """Do the work of `frames` without the model: `writers` are the strands that fill holes.

    Where there are more than `most` network calls, only so many of them are shown.
    """
    film = [f for f in parts.trajectory if f.part == part]
    if not film:
        raise BraidError(_no_film(parts, part))
    if scale is not None and scale < 1:
        raise BraidError(f"scale {scale} must be at least 1")
    raw = parts[part]
    writer = _writer(writers, raw, film[0].state)
    moments = _moments(writer, film, raw, most)
    if isinstance(raw, Image.Image):
        return _Pictures(writer, raw, len(moments[0].state), scale).draw(moments)
    return _Symbols(writer, moments, scale or 1).draw(moments)


def durations(count: int) -> list[int]:
    """Return how long each frame is shown, in milliseconds; the last one rests."""
    each = max(60, min(240, 4800 // max(1, count)))
    return [each] * (count - 1) + [2400]


def gif(pictures: Sequence[Image.Image]) -> bytes:
    """Return pictures of one size as a GIF that starts again for ever."""
    flat = [p.quantize(128, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    flat[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=flat[1:],
        duration=durations(len(flat)),
        loop=0,
        disposal=1,
    )
    return buffer.getvalue()


def _no_film(parts: Parts, part: int) -> str:
    if not parts.trajectory:
        return "this result has no trajectory; generate it with trajectory=True"
    holes = ", ".join(str(i) for i in sorted({f.part for f in parts.trajectory}))
    return f"part {part} was not generated; the trajectory holds part {holes}"


def _writer(writers: Mapping[str, Writer], raw: object, state: Tensor) -> Writer:
    """Return the strand that wrote a part: its tokens have this form, and it reads the result."""
    fits = [w for w in writers.values() if _fits(w, state)]
    chosen = next((w for w in fits if w.modality.accepts(raw)), fits[0] if fits else None)
    if chosen is None:
        raise BraidError(
            f"no strand of this model writes tokens of shape {tuple(state.shape[1:])}; use the "
            "pipeline that made the parts"
        )
    return chosen


def _fits(writer: Writer, state: Tensor) -> bool:
    space = writer.modality.space
    symbols = isinstance(space, Discrete)
    return symbols != state.is_floating_point() and state.shape[2:] == space.shape(0)[1:]


def _moments(writer: Writer, film: Sequence[Frame], raw: object, most: int | None) -> list[_Moment]:
    """Return what each network call shows, and the result."""
    film, final = _result(writer, film, raw)
    calls, total = len(film), len(final)
    out: list[_Moment] = []
    belief, believed = final, torch.zeros(total, dtype=torch.bool)
    for i in _chosen(calls, most):
        f = film[i]
        at = slice(f.first, f.first + f.state.shape[1])
        before = belief, believed
        state, belief = _put(final, at, f.state[0]), _put(final, at, f.belief[0])
        believed = torch.arange(total) < at.stop
        read = believed.clone()
        if writer.causal:
            read[at] = False
        changed = _changed(writer, *before, belief, believed) & bool(out)  # the first has no before
        time = "" if writer.causal else f"    t = {f.time:.2f}"
        caption = f"step {i + 1} of {calls}{time}", _count(changed)
        out.append(_Moment(caption, i / calls, state, read, belief, believed, changed))
    whole = torch.ones(total, dtype=torch.bool)
    words = f"result after {calls} network call{'s' * (calls > 1)}", ""
    said = None if _decodes(writer, final, raw) else str(raw)
    return [*out, _Moment(words, 1.0, final, whole, final, whole, ~whole, said)]


def _result(writer: Writer, film: Sequence[Frame], raw: object) -> tuple[list[Frame], Tensor]:
    """Return the calls that made the tokens of the result, and these tokens [n, ...].

    The tokens that were drawn are not part of a trajectory. They are those believed last, or else
    the result encoded again, whichever gives the result back.
    """
    total = max(f.first + f.state.shape[1] for f in film)
    last = film[0].belief[0].new_zeros((total, *film[0].belief.shape[2:]))
    for f in film:
        last[f.first : f.first + f.state.shape[1]] = f.belief[0]
    if not _decodes(writer, last, raw):
        return list(film), _encoded(writer, raw, total, last)
    ends = [n for n in range(1, total + 1) if bool(writer.modality.finished(last[None, :n]).all())]
    stop = min(ends[:1] or [total])
    kept = [f for f in film if f.first < stop]  # in a batch, a row is called on after its end
    return kept, last[: max(f.first + f.state.shape[1] for f in kept)]


def _decodes(writer: Writer, tokens: Tensor, raw: object) -> bool:
    shape = _grid(len(tokens), raw) if isinstance(raw, Image.Image) else (len(tokens),)
    made = writer.modality.decode(tokens, shape)
    if isinstance(raw, Image.Image):
        return made.size == raw.size and made.tobytes() == raw.tobytes()
    return made == raw


def _encoded(writer: Writer, raw: Any, total: int, otherwise: Tensor) -> Tensor:
    try:
        tokens = writer.modality.canvas(writer.modality.encode(raw), writer.causal)
    except BraidError:  # an empty text, or a picture of another size, has no tokens
        return otherwise
    closed = len(tokens) - total in (0, 1)  # a text that met the end of its hole is not closed
    fits = closed and _decodes(writer, tokens[:total], raw)
    return tokens[:total].to(otherwise.dtype) if fits else otherwise


def _chosen(calls: int, most: int | None) -> list[int]:
    if most is None or calls <= most:
        return list(range(calls))
    return sorted({round(i * (calls - 1) / max(1, most - 1)) for i in range(most)})


def _put(base: Tensor, at: slice, tokens: Tensor) -> Tensor:
    out = base.clone()
    out[at] = tokens
    return out


def _changed(writer: Writer, old: Tensor, was: Tensor, new: Tensor, now: Tensor) -> Tensor:
    """Return [n] bool: which tokens are believed to be other than before."""
    if isinstance(writer.modality.space, Discrete):
        differ = old != new
    else:
        differ = (old - new).abs() > _MOVED * (writer.modality.limit or 1.0)
    differ = differ.flatten(1).any(1) if differ.ndim > 1 else differ
    return now & (differ | ~was)


def _count(changed: Tensor) -> str:
    n = int(changed.sum())
    return f"{n} changed" if n else ""


def _grid(n: int, picture: Image.Image) -> tuple[int, int]:
    """Return rows and columns of n square patches."""
    rows = max(1, round(math.sqrt(n * picture.height / picture.width)))
    return rows, n // rows


@cache
def _font(size: int) -> Any:
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)  # more scripts than the one within Pillow
    except OSError:
        return ImageFont.load_default(size)


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else "\u00b7" for c in text)


@cache
def _hatch(width: int, height: int) -> Image.Image:
    """Return diagonal stripes."""
    out = Image.new("RGB", (width, height), MASKED)
    pen = ImageDraw.Draw(out)
    for x in range(-height, width, 10):
        pen.line((x, height, x + height, 0), fill=STRIPE, width=3)
    return out


def _stage(width: int, height: int, moment: _Moment) -> Image.Image:
    """Return an empty frame with its captions and a bar that shows how far it is."""
    out = Image.new("RGB", (width, height), STAGE)
    pen, y = ImageDraw.Draw(out), height - _FOOT + 8
    pen.text((_PAD, y), moment.caption[0], INK, _font(15))
    pen.text((width - _PAD, y), moment.caption[1], CHANGED, _font(15), anchor="ra")
    pen.rectangle((0, height - 4, width, height), LINE)
    if moment.done:
        pen.rectangle((0, height - 4, round(width * moment.done), height), CHANGED)
    return out


@dataclass(frozen=True)
class _Pictures:
    """Draws a picture hole: what was read and what was believed, side by side."""

    writer: Writer
    raw: Image.Image
    n: int
    scale: int | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a picture on the stage."""
        w, h = self.raw.size
        scale = self.scale or max(1, _SIDE // max(w, h))
        return w * scale, h * scale

    def draw(self, moments: Sequence[_Moment]) -> list[Image.Image]:
        """Return the frames; the last one shows the result itself."""
        made = [self._frame(m, None) for m in moments[:-1]]
        return [*made, self._frame(moments[-1], self.raw)]

    def _frame(self, moment: _Moment, result: Image.Image | None) -> Image.Image:
        w, h = self.size
        out = _stage(max(2 * w + 3 * _PAD, 260), _HEAD + h + _FOOT, moment)
        pen, right = ImageDraw.Draw(out), 2 * _PAD + w
        for x, title in ((_PAD, "reads"), (right, "believes")):
            pen.text((x, 6), title, SOFT, _font(14))
            pen.rectangle((x - 1, _HEAD - 1, x + w, _HEAD + h), outline=LINE)
        out.paste(self._picture(moment.state, moment.read, result), (_PAD, _HEAD))
        out.paste(self._picture(moment.belief, moment.believed, result), (right, _HEAD))
        for token in torch.nonzero(moment.changed).flatten().tolist():
            x0, y0, x1, y1 = self._patch(token)
            thick = max(1, min(3, (x1 - x0) // 8))
            pen.rectangle(
                (right + x0, _HEAD + y0, right + x1 - 1, _HEAD + y1 - 1), None, CHANGED, thick
            )
        return out

    def _patch(self, token: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of a token's patch."""
        (rows, columns), (w, h) = _grid(self.n, self.raw), self.size
        row, column = divmod(token, columns)
        return (
            column * w // columns,
            row * h // rows,
            (column + 1) * w // columns,
            (row + 1) * h // rows,
        )

    def _picture(self, tokens: Tensor, known: Tensor, result: Image.Image | None) -> Image.Image:
        """Return tokens as a picture, enlarged; what is masked or not known is hatched."""
        space = self.writer.modality.space
        masked = torch.zeros_like(tokens, dtype=torch.bool)
        if isinstance(space, Discrete):
            masked = tokens >= space.size
        shown = self._decode(tokens.masked_fill(masked, 0)) if result is None else result
        out = shown.convert("RGB").resize(self.size, Image.Resampling.NEAREST)
        for cover in (self._symbols(masked), self._tokens(~known)):
            out.paste(_hatch(*self.size), (0, 0), cover)
        return out

    def _decode(self, tokens: Tensor) -> Image.Image:
        return self.writer.modality.decode(tokens, _grid(self.n, self.raw))

    def _symbols(self, masked: Tensor) -> Image.Image:
        """Return where symbols are masked: single pixels where a symbol is one, else patches."""
        space = self.writer.modality.space
        numbers = self.raw.width * self.raw.height * len(self.raw.getbands()) // self.n
        if isinstance(space, Discrete) and masked.ndim == 2 and space.groups == numbers:
            bright = self._decode(masked.long() * (space.size - 1)).convert("L")
            return bright.point([0] + [255] * 255).resize(self.size, Image.Resampling.NEAREST)
        return self._tokens(masked if masked.ndim == 1 else masked.any(1))

    def _tokens(self, hit: Tensor) -> Image.Image:
        """Return where tokens [n] are hit."""
        cells = hit.view(_grid(self.n, self.raw)).to(torch.uint8).mul(255).numpy()
        return Image.fromarray(cells).resize(self.size, Image.Resampling.NEAREST)


class _Symbols:
    """Draws a hole of text or another sequence: a box a token, in two rows."""

    def __init__(self, writer: Writer, moments: Sequence[_Moment], scale: int) -> None:
        self.writer, self.scale = writer, scale
        self.font, self.high = _font(17 * scale), 34 * scale
        self.words: dict[tuple[int, ...], str] = {}
        widths = [max(self._width(m, i) for m in moments) for i in range(len(moments[0].state))]
        self.places = self._lay(widths)
        self.lines = self.places[-1][1] + 1

    def draw(self, moments: Sequence[_Moment]) -> list[Image.Image]:
        """Return the frames."""
        return [self._frame(m) for m in moments]

    def _width(self, moment: _Moment, i: int) -> int:
        """Return the width of the box that token i needs."""
        said = (self._word(moment.state[i], moment.read[i]), self._word(moment.belief[i], True))
        widest = max(self.font.getlength(w or "") for w in said)
        return max(self.high, min(round(widest) + 18 * self.scale, _LINE * self.scale))

    def _word(self, token: Tensor, known: object) -> str | None:
        """Return a token as it is written in its box; None is hatched."""
        space = self.writer.modality.space
        if not known or not isinstance(space, Discrete) or bool((token >= space.size).any()):
            return None
        key = tuple(token.reshape(-1).tolist())
        if key not in self.words:
            said = self.writer.modality.decode(token[None], (1,))
            self.words[key] = (
                _visible(str(said)).replace(" ", "\u00b7") or "<end>"
            )  # a frame symbol
        return self._shorten(self.words[key])

    def _shorten(self, word: str) -> str:
        return word if len(word) <= 24 else f"{word[:23]}\u2026"

    def _fit(self, text: str, width: int) -> str:
        """Return as much of a text as fits in a box."""
        text = _visible(text)
        if self.font.getlength(text) < width - 12:
            return text
        keep = len(text)
        while keep and self.font.getlength(f"{text[:keep]}\u2026") > width - 12:
            keep -= 1
        return f"{text[:keep]}\u2026"

    def _lay(self, widths: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return left, line and width of every box."""
        out, x, line, gap = [], 0, 0, 6 * self.scale
        for w in widths:
            if x and x + w > _LINE * self.scale:
                x, line = 0, line + 1
            out.append((x, line, w))
            x += w + gap
        return out

    def _frame(self, moment: _Moment) -> Image.Image:
        wide = max(x + w for x, _, w in self.places)
        tall = self.lines * (self.high + 6 * self.scale)
        out = _stage(max(wide + 2 * _PAD, 420), 2 * (_HEAD + tall) + _FOOT, moment)
        pen = ImageDraw.Draw(out)
        nothing = torch.zeros_like(moment.changed)
        rows = (
            ("reads", moment.state, moment.read, nothing),
            ("believes", moment.belief, moment.believed, moment.changed),
        )
        for k, (title, tokens, known, changed) in enumerate(rows):
            top = k * (_HEAD + tall)
            pen.text((_PAD, top + 6), title, SOFT, _font(14))
            if moment.said is not None:
                whole = (0, 0, max(wide, 420 - 2 * _PAD))
                self._box(out, pen, whole, top + _HEAD, self._fit(moment.said, whole[2]), False)
                continue
            for i, place in enumerate(self.places):
                word = self._word(tokens[i], known[i])
                self._box(out, pen, place, top + _HEAD, word, bool(changed[i]))
        return out

    def _box(
        self,
        out: Image.Image,
        pen: ImageDraw.ImageDraw,
        place: tuple[int, int, int],
        top: int,
        word: str | None,
        changed: bool,
    ) -> None:
        x, y, w = _PAD + place[0], top + place[1] * (self.high + 6 * self.scale), place[2]
        if word is None:
            out.paste(_hatch(w, self.high), (x, y))
            return
        edge = (CHANGED, 2 * self.scale) if changed else (LINE, 1)
        pen.rounded_rectangle((x, y, x + w - 1, y + self.high - 1), 5, BOX, edge[0], edge[1])
        colour = SOFT if word == "<end>" else INK
        pen.text((x + w // 2, y + self.high // 2), word, colour, self.font, anchor="mm")
