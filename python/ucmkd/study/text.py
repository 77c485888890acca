"""Numbers as people read them."""

from __future__ import annotations


def number(value: float, digits: int = 1) -> str:
    """``12.3``, or a dash where there is none."""
    return "–" if value != value else f"{value:.{digits}f}"


def estimate(mean: float, half_width: float) -> str:
    """``71.2 ± 1.3``, or the mean alone where one seed gives no interval."""
    if half_width != half_width:
        return number(mean)
    return f"{mean:.1f} ± {half_width:.1f}"


def signed(value: float) -> str:
    """``+1.2``, ``−0.3``, ``0.0``."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_text(value: float) -> str:
    """``<.001``, ``.012``, ``1``."""
    if value < 0.001:
        return "<.001"
    return "1" if value >= 0.9995 else f"{value:.3f}"[1:]
