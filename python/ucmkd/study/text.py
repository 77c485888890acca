"""Numbers as people read them."""

from __future__ import annotations


def number(value: float, form: str = ".1f") -> str:
    """``12.3``, or a dash where there is none."""
    return "–" if value != value else f"{value:{form}}"


def estimate(mean: float, half_width: float, form: str = ".1f") -> str:
    """``71.2 ± 1.3``, or the mean alone where one seed gives no interval."""
    if half_width != half_width:
        return number(mean, form)
    return f"{mean:{form}} ± {half_width:{form}}"


def signed(value: float, form: str = ".1f") -> str:
    """``+1.2``, ``−0.3``, ``0.0``."""
    text, zero = f"{value:+{form}}", f"{0:{form}}"
    return zero if text[1:] == zero else text.replace("-", "−")


def p_text(value: float) -> str:
    """``<.001``, ``.012``, ``1``."""
    if value < 0.001:
        return "<.001"
    return "1" if value >= 0.9995 else f"{value:.3f}"[1:]
