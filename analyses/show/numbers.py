"""Numbers and their intervals in words: one way to write them in reports, captions and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..engine.pooling import Pooled
from ..engine.ranking import Correlation

_ROUNDING = 1e-12  # below this a number is what is left of 0
_MINUS = "\N{MINUS SIGN}"


def decimal(value: float, digits: int = 3) -> str:
    """Return 0.912, scientific notation for the very large and small, a dash for no number."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if abs(value) < _ROUNDING:
        value = 0.0
    if value and not 10.0**-digits <= abs(value) < 1e5:
        return f"{value:.{max(digits - 1, 1)}g}".replace("-", _MINUS)
    return f"{value:.{digits}f}".replace("-", _MINUS)


def percent(share: float, digits: int = 1) -> str:
    """Return a share as 74.3 %, with a space that does not break."""
    return "–" if math.isnan(share) else f"{fixed(100 * share, digits)}\N{NO-BREAK SPACE}%"


def points(difference: float, digits: int = 1) -> str:
    """Return a difference of two shares in percentage points, without the unit: 0.8."""
    return fixed(100 * difference, digits)


def fixed(value: float, digits: int) -> str:
    """Return a number with so many decimals, never as ``-0.0``."""
    text = f"{value:.{digits}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", _MINUS)


def count(value: float) -> str:
    """Return a whole number with thin groups of three: 134 515 008."""
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def counted(number: int, noun: str) -> str:
    """Return ``1 data seed`` or ``3 data seeds``."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def reached(size: float, last: float) -> str:
    """Return how large something has to be, or ``more than`` the last one tried."""
    if math.isnan(size):
        return "–"
    return f"more than {count(last)}" if math.isinf(size) else count(size)


def duration(seconds: float) -> str:
    """Return seconds as 0.42 s, 12.3 s or 3 min 5 s."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def rate(value: float) -> str:
    """Return a learning rate as 3e-4."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", _MINUS)


def size(bytes_: float) -> str:
    """Return a number of bytes in MiB or GiB."""
    mebibytes = bytes_ / 2**20
    return f"{mebibytes / 1024:.2f} GiB" if mebibytes >= 1024 else f"{mebibytes:.1f} MiB"


def joined(items: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def moves(first: float, last: float, digits: int = 2) -> str:
    """Return ``rises from 0.71 to 0.97``, ``falls ...``, or ``stays at 0.97`` if both are."""
    before, after = decimal(first, digits), decimal(last, digits)
    if before == after:
        return f"stays at {after}"
    return f"{'rises' if last > first else 'falls'} from {before} to {after}"


def lower_by(drop: float) -> str:
    """Return a drop of a share: ``0.8 points lower``, ``0.8 points higher``, ``no difference``."""
    if points(drop) == points(0.0):
        return "no difference"
    return f"{points(abs(drop))} points {'lower' if drop > 0 else 'higher'}"


def share_between(value: Pooled) -> str:
    """Return a share in per cent with its interval, cut to what a share can be."""
    low, high = max(value.low, 0.0), min(value.high, 1.0)
    reach = "" if math.isnan(value.low) else f" ({points(low)} to {points(high)})"
    return percent(value.mean) + reach


def points_between(value: Pooled) -> str:
    """Return a difference of shares in points with its interval."""
    reach = "" if math.isnan(value.low) else f" ({points(value.low)} to {points(value.high)})"
    return points(value.mean) + reach


def correlation(found: Correlation) -> str:
    """Return a rank correlation with its interval."""
    if math.isnan(found.value):
        return "– (all tie)"
    value = decimal(found.value, 2)
    if math.isnan(found.low):
        return value
    return f"{value} ({decimal(found.low, 2)} to {decimal(found.high, 2)})"


def number_between(value: Pooled, bounds: tuple[float, float] = (-math.inf, math.inf)) -> str:
    """Return a number with its interval, cut to what it can be."""
    if math.isnan(value.low):
        return decimal(value.mean)
    low, high = max(value.low, bounds[0]), min(value.high, bounds[1])
    return f"{decimal(value.mean)} ({decimal(low)} to {decimal(high)})"
