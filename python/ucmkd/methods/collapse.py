"""Noticing that inner steps collapse a student, and saying what to do about it."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.losses._common import wide

#: The copy's feature spread may fall to this fraction of the original's, or grow to its inverse.
#: In trials (pen digits with every cost, BRCA; 500 and 600 steps, batches of 64) sound runs stayed
#: within .65 to 1.25; on the digits those that left .5 to 2 lost 3 to 73 points of accuracy.
SPREAD_FRACTION = 0.5

#: Evaluations of a loss before it is judged, and the memory of its moving averages.
WARM_UP, DECAY = 20, 0.95

#: Mean absolute deviations by which a loss may exceed twice its mean.
DEVIATIONS = 5.0

#: What a loss in nats may always rise by; a loss in units of a cost has no such scale.
NATS = 1.0


class TrainingError(RuntimeError):
    """The training cannot go on: a term of the loss is NaN or infinite."""


class CollapseWarning(UserWarning):
    """The inner steps of a bilevel method change the student too much."""


class Seen(NamedTuple):
    """One look at the student within an outer step.

    Attributes:
        loop: ``"FA"``, ``"LA"``, or ``"CE"`` for the copy after all inner steps.
        spread: :func:`spread` of its features, 0-d.
        loss: The loop's loss there, 0-d.
    """

    loop: str
    spread: Tensor
    loss: Tensor


def spread(features: Tensor) -> Tensor:
    """Root mean square of the centred features ``(n, d)``: 0 when all samples look alike."""
    values = wide(features.detach())
    return (values - values.mean(0)).square().mean().sqrt()


class RunningRange:
    r"""How high a loss may be: its mean, its own size again, and 5 mean absolute deviations.

    Both averages are exponential with decay .95. FA follows the scale of the features, so its
    current mean counts. A label loss (``nats=True``) has no reason to rise again: its lowest mean
    counts, and its own size is at least 1 nat. There is no limit before 20 values, nor below: a
    loss that falls is what the training wants, and features that fall together have their own
    test.
    """

    def __init__(self, nats: bool) -> None:
        self.nats = nats
        self.count = 0
        self.mean = 0.0
        self.deviation = 0.0
        self.lowest = math.inf

    def limit(self) -> float:
        """The highest value in range; infinite before there are enough values."""
        if self.count < WARM_UP:
            return math.inf
        anchor = self.lowest if self.nats else self.mean
        size = max(abs(anchor), NATS) if self.nats else abs(anchor)
        return anchor + size + DEVIATIONS * self.deviation

    def add(self, value: float) -> None:
        """One more value."""
        # The first values are averaged plainly: an average that starts at 0 would lag behind.
        rate = max(1 - DECAY, 1 / (self.count + 1))
        if self.count:
            self.deviation += rate * (abs(value - self.mean) - self.deviation)
        self.mean += rate * (value - self.mean)
        self.count += 1
        if self.count >= WARM_UP:
            self.lowest = min(self.lowest, self.mean)


class CollapseWatch:
    """Looks at the inner loops of every step, once per step and with one wait for the device.

    Three things are watched. The spread of the copy's features on the batch may not leave one half
    to twice that of the original's; the losses of both loops and the cross-entropy of the copy may
    not leave their running range (:class:`RunningRange`); nothing may be NaN or infinite. The
    first two give one :class:`CollapseWarning`, the last a :class:`TrainingError`. The ranges are
    not part of a checkpoint: a resumed run learns them anew.

    Args:
        inner_lr: η, for the message.
    """

    def __init__(self, inner_lr: float) -> None:
        self.inner_lr = inner_lr
        self.warned = False
        self.ranges = {loop: RunningRange(nats=loop != "FA") for loop in ("FA", "LA", "CE")}

    def look(self, step: int, looks: list[Seen]) -> None:
        """Judge one outer step.

        Args:
            step: Its number.
            looks: In order; the first is at the original parameters, the last at the copy.

        Raises:
            TrainingError: A spread or a loss is NaN or infinite.

        Warns:
            CollapseWarning: A spread or a loss is out of its range, for the first time.
        """
        if len(looks) < 2:
            return  # no inner step was made
        numbers = torch.stack([torch.stack((s.spread.double(), s.loss.double())) for s in looks])
        rows = numbers.tolist()
        original = rows[0][0]
        for i, (look, (width, loss)) in enumerate(zip(looks, rows, strict=True)):
            cause = looks[i - 1].loop if i else ""
            for name, value in (("feature spread", width), (f"{look.loop} loss", loss)):
                if not math.isfinite(value):
                    raise TrainingError(self._broken(step, cause, name, value))
            if i and original > 0:
                limits = (SPREAD_FRACTION * original, original / SPREAD_FRACTION)
                self._judge(step, cause, "feature spread", width, limits, f"from {original:.3g} ")
            history = self.ranges[look.loop]
            limits = (-math.inf, history.limit())
            usual = f"from about {history.mean:.3g} " if history.count else ""
            self._judge(step, cause, f"{look.loop} loss", loss, limits, usual)
            history.add(loss)

    def _judge(
        self,
        step: int,
        cause: str,
        name: str,
        value: float,
        limits: tuple[float, float],
        before: str,
    ) -> None:
        low, high = limits
        if self.warned or low <= value <= high:
            return
        self.warned = True
        place = f"after the inner {cause} steps" if cause else "before the inner steps"
        outside = f"above {high:.3g}" if value > high else f"below {low:.3g}"
        warnings.warn(
            f"step {step}, {place}: the {name} went {before}to {value:.3g}, {outside}: the inner "
            f"steps collapse the student. Use a smaller inner_lr (it is {self.inner_lr:g}). This "
            "is said once",
            CollapseWarning,
            stacklevel=4,
        )

    def _broken(self, step: int, cause: str, name: str, value: float) -> str:
        if cause:
            return (
                f"step {step}: the {name} became {value} after the inner {cause} steps, which "
                f"collapse the student; use a smaller inner_lr (it is {self.inner_lr:g})"
            )
        return (
            f"step {step}: the {name} is {value} before any inner step: the inputs or the "
            "teacher's outputs are not finite, or the training has diverged (a smaller learning "
            "rate may help)"
        )
