"""Rules that say beforehand whether a teacher will help: one function each.

A rule maps :class:`Evidence` and :class:`Settings` to a :class:`Finding`; :data:`RULES` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ucmkd.information.rules.accuracy import accuracy
from ucmkd.information.rules.cch import cch
from ucmkd.information.rules.evidence import Evidence, Finding, Settings
from ucmkd.information.rules.predicted import gaussian, gaussian_own
from ucmkd.information.rules.signal import snr
from ucmkd.information.rules.similarity import cka, mmd
from ucmkd.information.rules.trial import trial


@dataclass(frozen=True)
class Rule:
    """A rule and what it needs.

    Attributes:
        ask: The function.
        margin: What its margin is.
        parts: Names of the two parts of the margin, for the rules that have them.
        needs_pairs: Whether samples paired by class alone are not enough.
    """

    ask: Callable[[Evidence, Settings], Finding]
    margin: str
    parts: tuple[str, str] = ("", "")
    needs_pairs: bool = False


RULES: dict[str, Rule] = {
    "cch": Rule(cch, "I(H_T; H_S) − I(H_S; Y), nats", ("I(H_T; H_S)", "I(H_S; Y)")),
    "gaussian": Rule(gaussian, "predicted gain / excess risk", needs_pairs=True),
    "gaussian_own": Rule(gaussian_own, "the same beyond a constant teacher's", needs_pairs=True),
    "trial": Rule(
        trial,
        "squared error of a kernel student, without − with",
        ("with", "without"),
        needs_pairs=True,
    ),
    "accuracy": Rule(accuracy, "accuracy of the teacher − of the student", ("teacher", "student")),
    "cka": Rule(cka, "CKA(H_T; H_S) − CKA(H_S; Y)", ("CKA(H_T; H_S)", "CKA(H_S; Y)")),
    "mmd": Rule(mmd, "−MMD²(H_T, H_S)"),
    "snr": Rule(snr, "SNR(H_T; Y) − SNR(H_S; Y)", ("SNR(H_T; Y)", "SNR(H_S; Y)")),
}

__all__ = ["RULES", "Evidence", "Finding", "Rule", "Settings"]
