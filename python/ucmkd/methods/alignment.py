"""The feature alignment of UCMKD: by transport or by MMD, between clouds of any two widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd import reference
from ucmkd.losses import feature_align, mmd_align
from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.observed import report_alignment

ALIGNMENTS = ("sinkhorn", "mmd")
BANDWIDTHS = ("median", "mean")


def truncate(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Features of unequal widths, normalised and cut to the smaller width.

    What the released UCMKD code does, in this order; it throws columns away, and which ones is an
    accident. Equal widths stay as they are.
    """
    width = min(student.shape[-1], teacher.shape[-1])
    if student.shape[-1] == teacher.shape[-1]:
        return student, teacher
    student, teacher = (F.normalize(wide(v), dim=-1) for v in (student, teacher))
    return student[..., :width], teacher[..., :width]


@dataclass(frozen=True)
class Alignment:
    """FA with its options.

    Attributes:
        kind: ``"sinkhorn"`` (:func:`ucmkd.losses.feature_align`) or ``"mmd"``
            (:func:`ucmkd.losses.mmd_align`, Gaussian kernels of five scales).
        options: The options of that loss.
    """

    kind: str
    options: dict[str, Any]

    def __call__(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        origin: Tensor | None = None,
        check_finite: bool = True,
    ) -> Tensor:
        """The value, 0-d.

        Args:
            student: Features ``(n, d)``, projected.
            teacher: Features ``(m, d_T)``, detached in the loss; other widths are cut
                (:func:`truncate`).
            origin: The same values as ``student``, in another place of the graph. The scale that
                the data give (the mean cost in ε, the bandwidth), which is a constant in the
                gradient of the loss, then follows ``origin``: a gradient taken to ``student``
                alone is the usual one, and its own derivative is complete.
            check_finite: Name NaN or infinite features.
        """
        options = dict(self.options)
        if self.kind == "sinkhorn":
            seen = {name: value for name, value in options.items() if name != "sharp"}
            report_alignment(*truncate(student, teacher), seen)
        if origin is not None:
            options.update(self.scale(*truncate(origin, teacher)))
        align = feature_align if self.kind == "sinkhorn" else mmd_align
        return align(*truncate(student, teacher), check_finite=check_finite, **options)

    def scale(self, student: Tensor, teacher: Tensor) -> dict[str, Any]:
        """The options that depend on the data, as differentiable numbers."""
        x, y = wide(student)[None], wide(teacher.detach(), student)[None]
        if self.kind == "sinkhorn":
            if self.options["epsilon_scale"] is None:
                return {}
            mean = reference.cost_matrix(x, y, self.options["cost"]).mean()
            tiny = torch.finfo(x.dtype).tiny ** 0.5  # coincident clouds have a mean cost of 0
            return {
                "epsilon": (self.options["epsilon"] * mean).clamp_min(tiny),
                "epsilon_scale": None,
            }
        if not isinstance(self.options["bandwidth"], str):
            return {}
        if self.options["bandwidth"] == "mean":
            return {"bandwidth": reference.mean_bandwidth(x, y, None, None)[0]}
        a, b = x.new_ones(x.shape[:2]), y.new_ones(y.shape[:2])
        return {"bandwidth": reference.median_bandwidth(x, y, a, b)[0]}


def make_alignment(
    *,
    alignment: Any,
    bandwidth: Any,
    sharp: bool,
    cost: Any,
    epsilon: Any,
    epsilon_scale: Any,
    tol: Any,
    max_iter: Any,
) -> Alignment:
    """Check the options of FA, those of the other kind included, and keep the ones that act."""
    checks.choice("alignment", alignment, ALIGNMENTS)
    if isinstance(bandwidth, str):
        checks.choice("bandwidth", bandwidth, BANDWIDTHS)
    else:
        checks.number("bandwidth", bandwidth, strict=True)
    transport = checks.alignment(
        cost=cost, epsilon=epsilon, epsilon_scale=epsilon_scale, tol=tol, max_iter=max_iter
    )
    if alignment == "mmd":
        return Alignment("mmd", {"bandwidth": bandwidth})
    return Alignment("sinkhorn", {**transport, "sharp": sharp})
