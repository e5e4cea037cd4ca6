"""Numbers as the card and the pages of a corpus write them."""

from datetime import UTC, datetime

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def count(value: float | None) -> str:
    """Return a number with separators of thousands: whole, or with four significant digits."""
    if value is None:
        return "unknown"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def counted(value: float | None, noun: str) -> str:
    """Return a number with what it counts, in the plural unless it is one."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def size(num_bytes: float | None) -> str:
    """Return a number of bytes in a unit of powers of 1,000, with three significant digits."""
    if num_bytes is None:
        return "unknown"
    value = float(num_bytes)
    for unit in _UNITS[:-1]:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} {_UNITS[-1]}"


def short(value: float | None) -> str:
    """Return a number of at most three significant digits, with K for thousand, M for million and B for billion."""
    if value is None:
        return "unknown"
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= 0.9995 * scale and (unit != "K" or abs(value) >= 9_999.5):
            return f"{value / scale:.3g}{unit}"
    return count(round(value, 2))


def percent(part: float | None, whole: float | None) -> str:
    """Return a share in percent; `-` of nothing, and never 0 or 100 for what is not."""
    if not whole or part is None:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "<0.1 %"
    if 99.9 < share < 100:
        return ">99.9 %"
    return f"{share:.1f} %" if share < 10 and share != round(share) else f"{share:.0f} %"


def day(moment: str | None) -> str:
    """Return the day of a time in ISO 8601, such as `28 November 2026`."""
    if moment is None:
        return "unknown"
    try:
        found = datetime.fromisoformat(moment.replace("Z", "+00:00")).astimezone(UTC)
    except ValueError:
        return moment[:10]
    return f"{found.day} {found:%B} {found.year}"


def duration(seconds: float | None) -> str:
    """Return a length of time in hours, minutes or seconds."""
    if seconds is None:
        return "unknown"
    if seconds >= 2 * 3600:
        return f"{count(round(seconds / 3600, 1))} hours"
    return f"{count(round(seconds / 60, 1))} minutes" if seconds >= 120 else f"{count(round(seconds, 1))} seconds"


def clock(seconds: float | None) -> str:
    """Return a time into a video, as 1:02.5."""
    return "" if seconds is None else f"{int(seconds) // 60}:{seconds % 60:04.1f}"
