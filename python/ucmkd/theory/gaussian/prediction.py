"""What distillation from a teacher will gain, predicted by the Gaussian model with an interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import checks, inputs
from .estimation import Quantities, estimate_quantities
from .model import GaussianModel
from .outcome import OUTCOMES, Setting
from .ranges import Range, intervals, squared, verdict

#: Most principal components taken without being asked.
MOST_DIMS = 32


@dataclass(frozen=True, kw_only=True)
class PredictedGain:
    """A predicted gain in squared error, summed over the outputs, and what it was computed from.

    Attributes:
        value: Excess risk without a teacher minus that with it, at ``weight``.
        low: Lower end of its interval.
        high: Upper end.
        confidence: Of every interval.
        relative: The gain over the excess risk without a teacher.
        over_constant: The gain beyond that of a teacher which always answers the mean label, each
            at its own best weight (at ``weight``, where that was given). A pull towards anything
            helps a little, as weight decay does; this is the teacher's own part.
        margin: ``1 - c/threshold``, above 0 where small weights help; 1 where any teacher does.
        helps: Whether distillation helps: True or False where the interval decides, None where
            it holds 0. Without unlabelled pairs and without a given weight by the margin, which is
            necessary and sufficient in the model; otherwise by the gain at ``weight``.
        beats_constant: Whether it helps more than the constant teacher, by ``over_constant``.
        weight: α in [0, 1] of the loss ``(1-α) Σ_labelled + α Σ_pairs``.
        excess_risk_without: Of the student without a teacher.
        excess_risk_with: Of the student with it, at ``weight``.
        model: The fitted model; its numbers are the estimates, negative ones set to 0.
        quantities: The estimates as they came.
        dimension: Principal components of the student's features that were used.
        reference_samples: N, from which the quantities come.
        warnings: What limits the answer, in words.
    """

    value: float
    low: float
    high: float
    confidence: float
    relative: Range
    over_constant: Range
    margin: Range
    helps: bool | None
    beats_constant: bool | None
    weight: float
    excess_risk_without: float
    excess_risk_with: float
    model: GaussianModel
    quantities: Quantities
    dimension: int
    reference_samples: int
    warnings: tuple[str, ...] = ()


def predicted_gain(
    student_features: Any,
    labels: Any,
    teacher_predictions: Any,
    *,
    n_labelled: int,
    unlabelled_pairs: int = 0,
    labelled_paired: bool = True,
    weight: float | None = None,
    dims: int | None = None,
    confidence: float = 0.95,
    subsamples: int = 200,
    seed: int = 0,
) -> PredictedGain:
    """What a linear student on these features gains by imitating this teacher.

    The quantities of :class:`.GaussianModel` are estimated on N paired reference samples
    (:mod:`.estimation`), for classes with one-hot targets and summed over the classes, then put
    into the exact risk of a student with ``n_labelled`` labels. The features are reduced to their
    leading principal components; what these leave out counts as noise of the label. The intercept
    counts as one more dimension. The intervals come from subsamples of half the reference samples,
    whose spread about the whole is that of the whole about the truth; the best gain's is made on
    its root, which is less skewed.

    The teacher must not have been trained on the reference samples: its answers there would share
    the labels' noise.

    Args:
        student_features: ``(N, width)``, a tensor or array.
        labels: Classes ``(N,)``, integer, or real targets ``(N,)`` or ``(N, q)``.
        teacher_predictions: The teacher's answers ``(N, q)`` on the same samples in the units of
            the targets: for classes probabilities ``(N, C)``, not logits.
        n_labelled: Labels that the student will train on, at least 4.
        unlabelled_pairs: Samples without a label that the teacher answers for the training.
        labelled_paired: Whether it also answers the labelled ones.
        weight: α in [0, 1] to predict the gain at; None: the best one. For a loss ``CE + λ KD``
            see :func:`.weight_from_penalty`.
        dims: Principal components; None: all up to 32, a quarter of ``n_labelled`` and an eighth
            of N.
        confidence: Of the intervals, in (0, 1).
        subsamples: Number of half samples, at least 20.
        seed: Of their choice.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: Different counts, NaN, one class only, constant features, ``n_labelled`` not
            above ``dims + 2`` or fewer than ``4 (dims + 2)`` reference samples, or a number out of
            range.
    """
    x = inputs.matrix("student_features", student_features)
    answer = inputs.matrix("teacher_predictions", teacher_predictions, vector=True)
    y = inputs.target(labels, answer.shape[1])
    if not len(x) == len(y) == len(answer):
        raise ValueError(
            "student_features, labels and teacher_predictions must hold the same samples, got "
            f"{len(x)}, {len(y)} and {len(answer)}"
        )
    checks.count("n_labelled", n_labelled, 4)
    checks.count("unlabelled_pairs", unlabelled_pairs, 0)
    checks.count("subsamples", subsamples, 20)
    if weight is not None:
        checks.share("weight", weight)
    checks.confidence(confidence)
    checks.count("seed", seed, 0)
    x = _reduce(x, dims, n_labelled)
    setting = Setting(n_labelled, x.shape[1] + 1, unlabelled_pairs, labelled_paired, weight)
    quantities = estimate_quantities(x, y, answer)
    whole = setting.outcome(quantities)
    rng = np.random.default_rng(seed)
    spread = np.empty((subsamples, len(OUTCOMES)))
    for row in range(subsamples):
        half = rng.permutation(len(x))[: len(x) // 2]
        spread[row] = setting.outcome(estimate_quantities(x[half], y[half], answer[half])).numbers
    gain, relative, over, margin = intervals(whole.numbers, spread, confidence)
    if weight is None:
        gain, relative = squared(gain), squared(relative)
    deciding = margin if weight is None and unlabelled_pairs == 0 else gain
    return PredictedGain(
        value=gain.value, low=gain.low, high=gain.high, confidence=confidence, relative=relative,
        over_constant=over, margin=margin, helps=verdict(deciding),
        beats_constant=verdict(over), weight=whole.weight,
        excess_risk_without=whole.without, excess_risk_with=whole.without - gain.value,
        model=whole.model, quantities=quantities, dimension=x.shape[1], reference_samples=len(x),
        warnings=_warnings(quantities, inputs.tail_weight(x)),
    )  # fmt: skip


def _reduce(x: NDArray[np.float64], dims: int | None, n_labelled: int) -> NDArray[np.float64]:
    most = max(1, min(MOST_DIMS, n_labelled // 4 - 1, len(x) // 8 - 2))
    if dims is not None:
        checks.count("dims", dims, 1)
        if n_labelled <= dims + 2:
            raise ValueError(
                f"n_labelled must exceed dims + 2 = {dims + 2}, got {n_labelled}: least squares "
                "has no finite expected risk there; ask for fewer dims"
            )
    used = most if dims is None else dims
    if len(x) < 4 * (used + 2):
        raise ValueError(
            f"student_features must have at least 4 (dims + 2) = {4 * (used + 2)} rows, got "
            f"{len(x)}"
        )
    return inputs.principal(x, dims, most)


def _warnings(found: Quantities, tails: float) -> tuple[str, ...]:
    notes = []
    if tails > inputs.HEAVY:
        notes.append(
            f"the student's features have heavy tails (fourth moment {tails:.1f} times a "
            "Gaussian's): how few labels determine least squares is then not what the model says"
        )
    if found.noise <= 0.0:
        notes.append("the student's features already give the labels exactly: nothing to gain")
    if found.signal <= 0.0:
        notes.append("no linear signal about the labels was found in the student's features")
    if found.teacher_noise <= 0.0 and found.teacher_signal <= 0.0:
        notes.append("the teacher's predictions are constant: what they gain is shrinkage")
    return tuple(notes)
