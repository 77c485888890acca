"""What a certificate says: its terms, the bounds made of them, and whether they hold."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

#: Rounding that a bound may miss by, relative to its size (float64 sums of float64 plans).
ROUNDING = 1e-9


@dataclass(frozen=True)
class Certificate:
    r"""A bound on a student's error by its teacher's, term by term; see :func:`certificate`.

    In nats unless another unit is said.

    Attributes:
        student_error: :math:`E_S[-\log p_S(y)]`, the student's cross-entropy.
        teacher_error: :math:`E_T[-\log p_T(y)]`, that of the teacher on its own samples.
        teacher_entropy: :math:`E_T[H(p_T)]`, what the teacher itself thinks its error is.
        entropy_constant: :math:`c_K`, nats per unit of logit.
        spectral_norm: :math:`\|W-\bar W\|_2` of the teacher's head, logits per unit of feature.
        lipschitz: τ, their product.
        wasserstein: :math:`W_1` of the features, from above, in units of feature.
        logit_wasserstein: :math:`W_1` of the teacher head's logits, from above, Euclidean distance.
        label_alignment: :math:`E_S[-\log p_S(y)+p_T(y|z)\log p_T(y|z)]`.
        transfer_error: :math:`E_S[-\log p_T(y|z)]`, the teacher's head on the student's features.
        class_alignment: :math:`\sum_y\pi_y L_y W_1(S_y,T_y)`; infinite if the teacher lacks a class
            of the student.
        class_logit_alignment: :math:`\sum_y\pi_y W_1` of the logits relative to that of y, with the
            largest difference of a logit as distance; infinite as above.
        prior_mismatch: :math:`M\cdot TV(\pi_S,\pi_T)`, M the range of the teacher's error over the
            classes.
        mmd: MMD_b of the features (no unit).
        kernel_norm: ‖f‖ of the function that stands for the entropy.
        kernel_residual: what is left of the entropy beside f.
        delta: probability with which a finite-sample term may be exceeded.
        finite_sample: to add to ``bound`` for the populations.
        logit_finite_sample: to add to ``logit_bound`` for the populations.
        class_finite_sample: to add to ``class_bound`` for the populations, at these frequencies of
            the classes.
        class_logit_finite_sample: to add to ``class_logit_bound`` for the populations.
        kernel_finite_sample: to add to ``kernel_bound`` for the populations, for an f that was
            chosen without these samples (here it was fitted to them: an indication).
        diameter: D of the features' support, given or that of the samples.
        loss_bound: the largest cross-entropy of the student, given or that of the samples.
        num_classes: K.
        student_samples: n.
        teacher_samples: m.
        blocks: number of blocks in which the transport was computed; 1 is one plan.
        space: what the student's features are.
        warnings: what a reader should know.
    """

    student_error: float
    teacher_error: float
    teacher_entropy: float
    entropy_constant: float
    spectral_norm: float
    lipschitz: float
    wasserstein: float
    logit_wasserstein: float
    label_alignment: float
    transfer_error: float
    class_alignment: float
    class_logit_alignment: float
    prior_mismatch: float
    mmd: float
    kernel_norm: float
    kernel_residual: float
    delta: float
    finite_sample: float
    logit_finite_sample: float
    class_finite_sample: float
    class_logit_finite_sample: float
    kernel_finite_sample: float
    diameter: float
    loss_bound: float
    num_classes: int
    student_samples: int
    teacher_samples: int
    blocks: int = 1
    space: str = "as given"
    warnings: tuple[str, ...] = ()

    # The bounds ----------------------------------------------------------------------------

    @property
    def feature_alignment(self) -> float:
        """``τ · W1``."""
        return self.lipschitz * self.wasserstein

    @property
    def bound(self) -> float:
        """The plug-in bound of ``student_error``: ``E_T[H] + τ W1 + LA``."""
        return self.teacher_entropy + self.feature_alignment + self.label_alignment

    @property
    def logit_alignment(self) -> float:
        """``c_K · W1`` of the logits: at most ``τ W1``, up to what the two plans leave."""
        return self.entropy_constant * self.logit_wasserstein

    @property
    def logit_bound(self) -> float:
        """The plug-in bound with ``logit_alignment``."""
        return self.teacher_entropy + self.logit_alignment + self.label_alignment

    @property
    def entropy_covered(self) -> bool:
        """The check ``err_T ≥ E_T[H(p_T)]``: the teacher does not think itself worse than it is.

        The difference is the derivative of the teacher's error with respect to the scale of its
        logits; it is negative for a teacher that is not confident enough.
        """
        return self.teacher_error >= self.teacher_entropy

    @property
    def teacher_bound(self) -> float:
        """The bound by the teacher's error, ``err_T + τ W1 + LA``; sure if ``entropy_covered``."""
        return self.teacher_error + self.feature_alignment + self.label_alignment

    @property
    def class_bound(self) -> float:
        """The non-circular bound of ``transfer_error``: ``err_T + Σ π L W1 + M·TV``."""
        return self.teacher_error + self.class_alignment + self.prior_mismatch

    @property
    def class_logit_bound(self) -> float:
        """The non-circular bound with the distance that the head sees."""
        return self.teacher_error + self.class_logit_alignment + self.prior_mismatch

    @property
    def kernel_alignment(self) -> float:
        """``‖f‖ MMD_b + residual``, in the place of ``τ W1``."""
        return self.kernel_norm * self.mmd + self.kernel_residual

    @property
    def kernel_bound(self) -> float:
        """The plug-in bound with the kernel form of feature alignment."""
        return self.teacher_entropy + self.kernel_alignment + self.label_alignment

    # How they stand ------------------------------------------------------------------------

    @property
    def slack(self) -> float:
        """``bound - student_error``."""
        return self.bound - self.student_error

    @property
    def class_slack(self) -> float:
        """``class_bound - transfer_error``."""
        return self.class_bound - self.transfer_error

    @property
    def ratio(self) -> float:
        """``bound / student_error``: 1 is tight."""
        return _ratio(self.bound, self.student_error)

    @property
    def class_ratio(self) -> float:
        """``class_bound / transfer_error``."""
        return _ratio(self.class_bound, self.transfer_error)

    def bounds(self) -> dict[str, tuple[float, float, float]]:
        """Each bound by name: the error, its bound on the samples, and the finite-sample term."""
        own, moved = self.student_error, self.transfer_error
        return {
            "bound": (own, self.bound, self.finite_sample),
            "logit_bound": (own, self.logit_bound, self.logit_finite_sample),
            "kernel_bound": (own, self.kernel_bound, self.kernel_finite_sample),
            "class_bound": (moved, self.class_bound, self.class_finite_sample),
            "class_logit_bound": (moved, self.class_logit_bound, self.class_logit_finite_sample),
        }

    @property
    def holds(self) -> bool:
        """Whether all the bounds hold on the samples, as they must."""
        return all(
            error <= bound + ROUNDING * (1 + abs(bound)) if math.isfinite(bound) else bound > 0
            for error, bound, _ in self.bounds().values()
        )

    @property
    def informative(self) -> bool:
        """Whether a non-circular bound is below log K, the error of who knows nothing."""
        return min(self.class_bound, self.class_logit_bound) < math.log(self.num_classes)

    # For logs and files --------------------------------------------------------------------

    def scalars(self) -> dict[str, float]:
        """What is worth a curve: the terms of the plug-in, and those of the non-circular bounds."""
        plug_in = ("student_error", "teacher_entropy", "feature_alignment", "label_alignment",
                   "bound", "logit_bound", "kernel_bound")  # fmt: skip
        transfer = ("transfer_error", "teacher_error", "class_alignment", "prior_mismatch",
                    "class_bound", "class_logit_bound")  # fmt: skip
        return {
            **{f"certificate/{name}": getattr(self, name) for name in plug_in},
            **{f"certificate_transfer/{name}": getattr(self, name) for name in transfer},
        }

    def rows(self) -> list[tuple[str, str, float]]:
        """The whole as a table: a term, its formula, nats."""
        return [
            ("student's error", "err_S", self.student_error),
            ("teacher's error", "err_T", self.teacher_error),
            ("teacher's entropy", "E_T[H]", self.teacher_entropy),
            ("feature alignment", "τ W1", self.feature_alignment),
            ("feature alignment, logits", "c_K W1", self.logit_alignment),
            ("feature alignment, kernel", "‖f‖ MMD + r", self.kernel_alignment),
            ("label alignment", "LA", self.label_alignment),
            ("bound of err_S", "E_T[H] + τ W1 + LA", self.bound),
            ("bound of err_S, logits", "E_T[H] + c_K W1 + LA", self.logit_bound),
            ("bound of err_S, kernel", "E_T[H] + ‖f‖ MMD + r + LA", self.kernel_bound),
            ("bound of err_S by err_T", "err_T + τ W1 + LA", self.teacher_bound),
            ("transfer error", "E_S[-log p_T]", self.transfer_error),
            ("class-wise alignment", "Σ π L W1", self.class_alignment),
            ("class-wise alignment, logits", "Σ π W1", self.class_logit_alignment),
            ("prior mismatch", "M TV", self.prior_mismatch),
            ("bound of transfer", "err_T + Σ π L W1 + M TV", self.class_bound),
            ("bound of transfer, logits", "err_T + Σ π W1 + M TV", self.class_logit_bound),
            *(
                (f"finite samples, {name.replace('_', ' ')}", f"δ = {self.delta:g}", added)
                for name, (_, _, added) in self.bounds().items()
            ),
        ]

    def summary(self) -> str:
        """Whether the bounds hold, by how much, and the check of the entropy, in words."""
        best = min(self.class_bound, self.class_logit_bound)
        tightest = min(self.bound, self.logit_bound, self.kernel_bound)
        worth = "below" if self.informative else "not below"
        less = "" if self.entropy_covered else ", so that a bound by err_T alone is not sure"
        return (
            f"The certificate {'holds' if self.holds else 'DOES NOT HOLD'}: err_S "
            f"{self.student_error:.3f} ≤ {self.bound:.3f} nats (tightest form {tightest:.3f}); "
            f"the teacher's head on the student's features {self.transfer_error:.3f} ≤ {best:.3f}, "
            f"{worth} log K = {math.log(self.num_classes):.3f}. The teacher's error "
            f"{self.teacher_error:.3f} {'≥' if self.entropy_covered else '<'} its entropy "
            f"{self.teacher_entropy:.3f}{less}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the bounds; what is infinite becomes None."""
        values = dataclasses.asdict(self)
        values["warnings"] = list(self.warnings)
        derived = ("teacher_bound", "holds", "ratio", "class_ratio", "entropy_covered")
        for name in (*self.bounds(), *derived, "informative"):
            values[name] = getattr(self, name)
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in values.items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Certificate:
        """Inverse of :meth:`to_dict`."""
        own = {field.name for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {
            k: math.inf if v is None else v for k, v in values.items() if k in own
        }
        given["warnings"] = tuple(given["warnings"])
        return cls(**given)


def _ratio(bound: float, error: float) -> float:
    return bound / error if error > 0 else math.inf
