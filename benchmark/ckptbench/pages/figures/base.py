"""What all figures share: matplotlib drawings as SVG that read on a light and on a dark ground.

A `Figure` is a title that states the finding, an alternative text, and SVG of the same bytes for the same
numbers. Black is written as ``currentColor``, so that text and axes take the colour of the page; the colours
of data are Okabe and Ito's (2008), which readers with any common colour blindness can tell apart, with
markers and line styles beside them. Text stays text: it can be searched, and it takes the reader's own font.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Sheet
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ckptbench.base.text import compact, typeset

P = ParamSpec("P")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: Any = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
EPOCHS = LinearSegmentedColormap.from_list("epochs", [COLOURS[0], COLOURS[1]])
WIDTH = 4.8  # inches: one column of the page, and readable when a phone shrinks it to 343 px
INK = "#000000"  # becomes currentColor
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
STYLE: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 9.5,
    "axes.titlesize": 9.5, "axes.labelsize": 9.5, "axes.linewidth": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": True, "grid.color": INK,
    "grid.alpha": 0.12, "grid.linewidth": 0.6, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "xtick.major.size": 0, "ytick.major.size": 0, "legend.fontsize": 8.5, "legend.frameon": False,
    "lines.linewidth": 1.5, "lines.markersize": 3.5, "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.06, "figure.constrained_layout.w_pad": 0.04,
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One picture: ``svg`` is for a page that shows the title as text, ``file`` stands alone."""

    name: str
    title: str
    alt: str
    note: str
    svg: str

    def file(self) -> str:
        """The same drawing below its title, on a ground that follows the reader's light or dark setting."""
        width, height = (float(size) for size in re.findall(r'viewBox="0 0 (\S+) (\S+)"', self.svg)[0])
        lines = textwrap.wrap(self.title, int(width / 6.7))
        top = 14 * len(lines) + 12
        spans = "".join(
            f'<tspan x="6" y="{14 * (i + 1) - top:g}">{escape(line)}</tspan>' for i, line in enumerate(lines)
        )
        head = (
            "<style>svg{color:#1c2128}.ground{fill:#fff}@media(prefers-color-scheme:dark)"
            "{svg{color:#e6e8eb}.ground{fill:#15181c}}</style>"
            f'<rect class="ground" x="0" y="{-top}" width="{width:g}" height="{height + top:g}"/>'
            f'<text style="font: 600 10.5px {FONTS}">{spans}</text>'
        )
        opening, rest = self.svg.split(">", 1)
        opening = re.sub(r'viewBox="[^"]*"', f'viewBox="0 {-top} {width:g} {height + top:g}"', opening)
        opening = re.sub(r'height="[^"]*"', f'height="{height + top:g}pt"', opening, count=1)
        return f'<?xml version="1.0" encoding="utf-8"?>\n{opening}>{head}{rest}\n'


def drawn(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws with the style above and nothing of the user's own."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return styled


def finish(sheet: Sheet, name: str, title: str, alt: str, note: str) -> Figure:
    """The drawing as SVG without anything that changes from run to run, and its texts typeset."""
    title, alt, note = typeset(title), typeset(alt), typeset(note)
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        sheet.savefig(text, format="svg", transparent=True, metadata=about)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # A style sheet inside the drawing would reach the page around it: its two rules become attributes.
    svg = re.sub(r'\s*<defs>\s*<style type="text/css">[^<]*</style>\s*</defs>', "", svg)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace("'DejaVu Sans'", FONTS)
    # A hundredth of a point cannot be seen and halves the file. Text is left alone.
    places = r' (?:d|x|y|points|transform)="[^"]*"'
    svg = re.sub(places, lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    label = escape(f"{title} {alt}", quote=True)
    opening = f'<svg role="img" aria-label="{label}" fill="currentColor" stroke-linejoin="round" '
    return Figure(name, title, alt, note, svg.replace("<svg ", opening, 1))


def short_label(selector: str, length: int = 60) -> str:
    """A selector's label as figures show it: 'ridge-loo (std)'."""
    text = selector.replace(":scale=std", " (std)")
    return text if len(text) <= length else text[: length - 1] + "…"


def log_axis(axis: Axis) -> None:
    """Powers of ten in plain digits: nothing here needs mathematical type."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value).replace("-", "\u2212")))
    axis.set_minor_formatter(NullFormatter())


def epoch_axis(axes: Axes, label: str = "epoch of pre-training", most: int | None = None) -> None:
    """Whole epochs as ticks, at most so many."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(most or "auto", integer=True, steps=[1, 2, 5, 10]))


def legend(axes: Axes, columns: int = 3) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, handlelength=2.4,
        columnspacing=1.2,
    )  # fmt: skip


def look(i: int, *names: str) -> dict[str, Any]:
    """Colour and, by name, the marker or line style of the i-th series."""
    looks = {"marker": MARKERS, "linestyle": DASHES}
    return {"color": COLOURS[i % len(COLOURS)]} | {name: looks[name][i % 6] for name in names}
