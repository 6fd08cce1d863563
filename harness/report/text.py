"""Numbers and durations as short text."""

from __future__ import annotations

import math

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits; exponents without padding (3.1e-5); an absent value is empty."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    return _bare(f"{value:.{digits}g}")


def grouped(value: float | None) -> str:
    """An integer with thin spaces between groups of three; three significant digits under 100."""
    if value is None:
        return ""
    return number(value) if abs(value) < 100 and value != int(value) else f"{value:,.0f}".replace(",", "\u202f")


def seconds(value: float | None, like: float | None = None) -> str:
    """A duration in the unit that suits `like` (itself by default), so that an interval and its median share one."""
    if value is None:
        return ""
    scale, unit = next((pair for pair in _UNITS if abs(like if like is not None else value) >= pair[0]), _UNITS[-1])
    return f"{_fixed(value / scale)} {unit}"


def memory(value: float | None) -> str:
    """Bytes in MiB or GiB."""
    if value is None:
        return ""
    return f"{number(value / 2**30)} GiB" if value >= 2**30 else f"{number(value / 2**20)} MiB"


def interval(low: float | None, high: float | None, like: float) -> str:
    """Low and high, "2.97 – 3.04", in the unit of `like`, which is not repeated."""
    if low is None or high is None:
        return ""
    return "\u2009\u2013\u2009".join(seconds(value, like).split()[0] for value in (low, high))


def ratio(value: float | None) -> str:
    """A ratio of speeds: "1.25×"."""
    if value is None:
        return ""
    return f"{value:.2f}×" if 0.095 <= value < 100 else multiple(value)


def multiple(value: float | None) -> str:
    """A value in units of its bound; two significant digits, "4.3×", since more would claim too much."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "∞"
    if value >= 100:
        return (f"{value:.0f}" if value < 9999.5 else _bare(f"{value:.1e}")) + "×"
    return f"{number(value, 2)}×"


def shortened(text: str, limit: int = 400) -> str:
    """At most `limit` characters, the cut marked."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def counted(amount: int, noun: str) -> str:
    """ "1 speed", "2 speeds"."""
    return f"{amount} {noun}" + ("" if amount == 1 else "s")


def _bare(text: str) -> str:
    """1e-05 -> 1e-5."""
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _fixed(value: float) -> str:
    """Four significant digits without an exponent: an interval of a per cent must show two ends."""
    return f"{value:.{max(0, 4 - len(str(int(abs(value)))))}f}"
