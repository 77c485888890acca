r"""Exact excess risk of a linear student that imitates a teacher on Gaussian data.

Inputs x ~ N(0, Σ) in d dimensions, label :math:`y = w^{*\top}x + \varepsilon`, teacher's answer
:math:`t = v^{*\top}x + \eta`; Var ε = σ², Var η = σ_t², Cov(ε, η) = c, both independent of x.
The student minimises, over n labelled samples and all pairs,

.. math::
    (1-\alpha)\sum_{\text{labelled}}(y - w^\top x)^2 + \alpha\sum_{\text{pairs}}(t - w^\top x)^2 .

Where the pairs are the labelled samples this is least squares on (1-α)y + αt, and with
K = d/(n-d-1), B = ‖v* - w*‖²_Σ its expected excess risk is exactly

.. math::
    R(\alpha) = \alpha^2 B + K[(1-\alpha)^2\sigma^2 + 2\alpha(1-\alpha)c + \alpha^2\sigma_t^2].

With m more pairs without a label see :meth:`GaussianModel.coefficients`. Several outputs: each has
the same K, so the formulas hold with B, σ², σ_t², c summed over the outputs (traces).
Derived for this package; the setting is that of Xie, Xu and Sanguinetti (arXiv 2510.13182).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import checks
from .criterion import Complementarity, criterion
from .design import design_factors, inverse_square_factor, ordinary_factor
from .weights import GRID, refine


@dataclass(frozen=True, kw_only=True)
class GaussianModel:
    """The model of this module by the numbers that its risk depends on.

    Attributes:
        noise: σ² > 0 (the trace with several outputs, as below).
        teacher_noise: σ_t² ≥ 0.
        noise_covariance: c, with c² ≤ σ² σ_t².
        mismatch: B = ‖v* - w*‖²_Σ ≥ 0.
        samples: n, the labelled samples.
        dimension: d. An intercept counts as one more, exact up to a factor 1 - 2/(n(d+1)).
        signal: ‖w*‖²_Σ, where known.
        teacher_signal: ‖v*‖²_Σ, where known.
        unlabelled_pairs: m, samples that only the teacher has answered.
        labelled_paired: Whether it has also answered the labelled ones.

    Raises:
        ValueError: A number that is out of range, n ≤ d + 1 (least squares then has no finite
            risk; with unlabelled pairs n + m ≤ d + 1), or no pairs at all.
    """

    noise: float
    teacher_noise: float
    noise_covariance: float
    mismatch: float
    samples: int
    dimension: int
    signal: float | None = None
    teacher_signal: float | None = None
    unlabelled_pairs: int = 0
    labelled_paired: bool = True

    def __post_init__(self) -> None:
        checks.positive("noise", self.noise)
        checks.not_negative("teacher_noise", self.teacher_noise)
        checks.not_negative("mismatch", self.mismatch)
        checks.covariance(self.noise_covariance, self.noise, self.teacher_noise)
        for name in ("signal", "teacher_signal"):
            if getattr(self, name) is not None:
                checks.not_negative(name, getattr(self, name))
        checks.count("dimension", self.dimension, 1)
        checks.count("unlabelled_pairs", self.unlabelled_pairs, 0)
        checks.count("samples", self.samples, 1)
        rows = self.samples + self.unlabelled_pairs
        if rows <= self.dimension + 1:
            name = "samples" if self.unlabelled_pairs == 0 else "samples + unlabelled_pairs"
            raise ValueError(
                f"{name} must exceed dimension + 1 = {self.dimension + 1}, got {rows}: least "
                "squares has no finite expected risk there; reduce the dimension"
            )
        if not self.labelled_paired and self.unlabelled_pairs == 0:
            raise ValueError("labelled_paired=False needs unlabelled_pairs: there are no pairs")

    @classmethod
    def from_weights(
        cls,
        student: ArrayLike,
        teacher: ArrayLike,
        *,
        covariance: ArrayLike | None = None,
        noise: float,
        teacher_noise: float,
        noise_covariance: float,
        samples: int,
        unlabelled_pairs: int = 0,
        labelled_paired: bool = True,
    ) -> GaussianModel:
        """The model from w* and v*.

        Args:
            student: w* ``(d,)``, or ``(d, q)`` for q outputs.
            teacher: v*, of the same shape.
            covariance: Σ ``(d, d)``, positive semi-definite; None: the identity.
            noise: σ², summed over the outputs like the next two.
            teacher_noise: σ_t².
            noise_covariance: c.
            samples: n.
            unlabelled_pairs: m.
            labelled_paired: Whether the teacher has also answered the labelled samples.

        Raises:
            ValueError: Shapes that do not fit, numbers that are not finite, or as for the class.
        """
        w, v, sigma = checks.weights(student, teacher, covariance)

        def norm(z: NDArray[np.float64]) -> float:
            return max(0.0, float(np.sum(z * (sigma @ z))))

        return cls(
            noise=noise, teacher_noise=teacher_noise, noise_covariance=noise_covariance,
            mismatch=norm(v - w), samples=samples, dimension=len(w),
            signal=norm(w), teacher_signal=norm(v),
            unlabelled_pairs=unlabelled_pairs, labelled_paired=labelled_paired,
        )  # fmt: skip

    @classmethod
    def from_correlations(
        cls,
        teacher_label: float,
        student_label: float,
        teacher_student: float,
        *,
        samples: int,
        scale: float = 1.0,
    ) -> GaussianModel:
        """Scalar inputs and label of unit variance; the teacher answers ``t = scale · ρ₁ x₁``.

        Then w* = ρ₂, v* = sρ₁ρ₁₂, σ² = 1 - ρ₂², σ_t² = s²ρ₁²(1 - ρ₁₂²) and
        c = sρ₁(ρ₁ - ρ₂ρ₁₂), so that at s = 1 small weights help iff
        ``1 - ρ₁² - ρ₂² + ρ₁ρ₂ρ₁₂ > 0``.

        Args:
            teacher_label: ρ₁ = corr(x₁, y), x₁ the teacher's input.
            student_label: ρ₂ = corr(x₂, y), x₂ the student's; |ρ₂| < 1.
            teacher_student: ρ₁₂ = corr(x₁, x₂).
            samples: n > 2.
            scale: s; 1 is the best teacher, above 1/ρ₁ it varies more than the label.

        Raises:
            ValueError: A correlation outside [-1, 1], three that no distribution has, or as for
                the class.
        """
        r1, r2, r12 = checks.correlations(teacher_label, student_label, teacher_student)
        v, tau = scale * r1 * r12, scale * r1
        bound = math.sqrt((1.0 - r2**2) * tau**2 * (1.0 - r12**2))
        # On the edge of the possible rounding must not make c too large.
        c = min(bound, max(-bound, tau * (r1 - r2 * r12)))
        return cls(
            noise=1.0 - r2**2, teacher_noise=tau**2 * (1.0 - r12**2), noise_covariance=c,
            mismatch=(v - r2) ** 2, samples=samples, dimension=1, signal=r2**2,
            teacher_signal=v**2,
        )  # fmt: skip

    @property
    def noise_factor(self) -> float:
        """K = d/(n-d-1), which turns σ² into the risk without a teacher; inf where n ≤ d + 1."""
        return ordinary_factor(self.samples, self.dimension)

    @property
    def threshold(self) -> float:
        r"""The noise covariance below which small weights help.

        σ² without unlabelled pairs. With m of them
        :math:`\sigma^2\bigl(1 + m\frac{n-1}{(n-d)(n-d-3)}\bigr)`, inf where n ≤ d + 3: the rows
        without a label bring noise of their own, independent of ε. Inf as well where no labelled
        sample is a pair: a small pull towards *any* teacher then helps, as a ridge does, which is
        why :meth:`constant_teacher` is the fairer comparison.
        """
        if not self.labelled_paired:
            return math.inf
        if self.unlabelled_pairs == 0:
            return self.noise
        extra = inverse_square_factor(self.samples, self.dimension)
        if math.isinf(extra):
            return math.inf
        return self.noise * (1.0 + self.unlabelled_pairs * extra / self.noise_factor)

    def coefficients(self, alpha: float) -> NDArray[np.float64]:
        r"""What R(α) multiplies B, σ², c and σ_t² with, in this order ``(4,)``.

        Without unlabelled pairs ``α², K(1-α)², 2Kα(1-α), Kα²``. With m of them and k₁, k₂, a, e of
        :mod:`.design`, each conditional on the inputs and then averaged,

        .. math::
            1 - 2(1-\beta)k_1 + (1-\beta)^2k_2,\quad (1-\beta)^2a,\quad 2\beta(1-\beta)a,\quad
            \beta^2 a + e,

        where the labelled samples are pairs with β = α and weight ω = α of the unlabelled rows,
        and otherwise with β = 0 and ω = α/(1-α).

        Raises:
            ValueError: α outside [0, 1].
        """
        checks.share("alpha", alpha)
        alpha = float(alpha)
        if self.labelled_paired:
            mixed, weight = alpha, alpha
        else:
            mixed, weight = 0.0, alpha / (1.0 - alpha) if alpha < 1.0 else math.inf
        k1, k2, a, e = design_factors(self.samples, self.unlabelled_pairs, self.dimension, weight)
        keep = 1.0 - mixed
        if self.unlabelled_pairs == 0 or weight == 0.0:
            bias = mixed**2
        else:
            bias = 1.0 - 2.0 * keep * k1 + keep**2 * k2
        if mixed == 0.0:  # a may be infinite
            return np.array([bias, a, 0.0, e])
        return np.array([bias, keep**2 * a, 2.0 * mixed * keep * a, mixed**2 * a + e])

    def excess_risk(self, alpha: float = 0.0) -> float:
        """R(α), the expected squared error beyond that of w*; at α = 0 that without a teacher.

        Raises:
            ValueError: α outside [0, 1].
        """
        parts = (self.mismatch, self.noise, self.noise_covariance, self.teacher_noise)
        return float(sum(k * x for k, x in zip(self.coefficients(alpha), parts, strict=True) if x))

    def gain(self, alpha: float) -> float:
        """R(0) - R(α); positive where distillation of weight α helps."""
        return 0.0 if alpha == 0.0 else self.excess_risk(0.0) - self.excess_risk(alpha)

    def helps(self, alpha: float | None = None) -> bool:
        """Whether weight α helps; None: whether any small one does, ``c < threshold``."""
        if alpha is None:
            return self.noise_covariance < self.threshold
        return self.gain(alpha) > 0.0

    def best_weight(self) -> float:
        """The α in [0, 1] of the least risk.

        Without unlabelled pairs ``K(σ²-c) / (B + K(σ²-2c+σ_t²))``, clipped; weights below twice
        that help. Otherwise on a grid, refined by a parabola.
        """
        if self.unlabelled_pairs == 0:
            k = self.noise_factor
            spread = self.noise - 2.0 * self.noise_covariance + self.teacher_noise
            below = self.mismatch + k * spread
            above = k * (self.noise - self.noise_covariance)
            return 0.0 if above <= 0.0 or below <= 0.0 else min(1.0, above / below)
        return refine(GRID, np.array([self.excess_risk(float(alpha)) for alpha in GRID]))

    def best_gain(self) -> float:
        """R(0) - R(best weight) ≥ 0; ``K²(σ²-c)² / (B + K(σ²-2c+σ_t²))`` where α* < 1, m = 0."""
        return max(0.0, self.gain(self.best_weight()))

    def constant_teacher(self) -> GaussianModel:
        """The same problem with a teacher that always answers 0, the label's mean.

        It knows nothing, and pulls the student towards 0 as weight decay does. Whatever it gains
        is not the teacher's merit.

        Raises:
            ValueError: ``signal`` is not known.
        """
        if self.signal is None:
            raise ValueError("constant_teacher needs signal, got None")
        return replace(
            self, teacher_noise=0.0, noise_covariance=0.0, mismatch=self.signal, teacher_signal=0.0
        )

    def cch(self) -> Complementarity:
        """The complementarity criterion for one output: does I(t; ŝ) exceed I(ŝ; y)?

        ``I = -½ log(1 - ρ²)`` with ``ρ² = ‖w*‖²/(‖w*‖²+σ²)`` for the label and
        ``ρ² = <w*, v*>²/(‖w*‖²(‖v*‖²+σ_t²))`` for the teacher. Where it says so and Var t ≤ Var y,
        small weights help: ε is uncorrelated with ŝ, hence ``c ≤ σ √Var(t|ŝ)``, and the two
        conditions give ``Var(t|ŝ) < Var y · σ²/Var y = σ²``. The converse is false.

        Source: Xie, Xu and Sanguinetti (arXiv 2510.13182).

        Raises:
            ValueError: ``signal`` or ``teacher_signal`` is not known.
        """
        if self.signal is None or self.teacher_signal is None:
            raise ValueError("cch needs signal and teacher_signal, got None")
        return criterion(
            signal=self.signal, teacher_signal=self.teacher_signal, mismatch=self.mismatch,
            noise=self.noise, teacher_noise=self.teacher_noise,
        )  # fmt: skip
