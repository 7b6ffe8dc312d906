"""How numbers, counts and names read, in a sentence or in an entry of a table.

Everything here is plain text, with ASCII minus signs and ordinary spaces; `typeset` turns a finished sentence
into what a page shows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import numpy as np


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean "x"?' or, with nothing close, the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return "known: " + (", ".join(known[:20]) + more or "none")


def printable(text: str) -> str:
    """In one line, whatever a name holds: names of files need not be text, and may speak to a terminal."""
    one = text.encode("utf-8", "backslashreplace").decode()
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in one)


def typeset(text: str) -> str:
    """The same text with real minus signs, and with spaces that do not break before a unit or after tau."""
    text = re.sub(r"(^|[\s(±])-(?=[\d.])", "\\1\u2212", text)
    text = re.sub(r"(?<=\d) (?=(?:%|ms|s|min|h|±)(?!\w))", "\u00a0", text)
    return re.sub(r"τ (?=[\u2212\d])|± (?=\d)", lambda found: found[0][0] + "\u00a0", text)


def counted(number: int, what: str) -> str:
    """'1 run', '3 runs'; the plural takes an s."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


# ----------------------------------------------------------------------------------------- numbers


def number(value: float, digits: int = 2, blank: str = "") -> str:
    """Rounded, without a minus before a zero; ``blank`` where there is none."""
    return f"{round(value, digits) + 0.0:.{digits}f}" if np.isfinite(value) else blank


def compact(value: float) -> str:
    """Two significant digits, or all before the point: '0.021', '-360', '2.6e-5'."""
    text = f"{value:.0f}" if 10 <= abs(value) < 1e5 else f"{value:.2g}"
    return re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].strip("+"), text)


def with_interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """'0.38±0.12'; the wider side where the interval was cut at a bound."""
    if not np.isfinite(low):
        return number(value, digits)
    return f"{number(value, digits)}±{number(max(value - low, high - value), digits)}"


def spread(values: Sequence[float]) -> str:
    """'-0.20 to 0.50', or the one number."""
    return " to ".join(dict.fromkeys((number(min(values)), number(max(values)))))


def percent(fraction: float) -> str:
    """A fraction as '88.9 %'."""
    return f"{100 * fraction:.1f} %"


def loss(points: float) -> str:
    """'1.2 points'; a cross-fitted regret below 0 is noise about nothing."""
    amount = f"{number(points, 1)} points"
    return f"nothing ({amount})" if points < 0 else amount


def duration(seconds: float) -> str:
    """'1.5 ms', '0.4 s', '12 s', '3.5 min', '2.1 h'."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.{1 if 0 < seconds < 0.00995 else 0}f} ms"
    for limit, unit, size, digits in ((9.95, "s", 1, 1), (99.5, "s", 1, 0), (5997, "min", 60, 1)):
        if seconds < limit:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 3600:.1f} h"


def seconds_entry(value: float) -> str:
    """Seconds without their unit, for a column whose head names it."""
    return "<.001" if 0 < value < 0.001 else compact(value) if np.isfinite(value) else ""
