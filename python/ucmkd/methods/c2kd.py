"""C2KD: pairs on which the two modalities disagree are left out; proxies speak for both."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.pairs import PairMethod
from ucmkd.models import Student


def kendall_tau(x: Tensor, y: Tensor) -> Tensor:
    r"""Kendall's rank correlation τ_b of each row, without a gradient.

    .. math:: \tau_b = \frac{\sum_{c<k} \mathrm{sgn}(x_c - x_k)\,\mathrm{sgn}(y_c - y_k)}
        {\sqrt{n_x n_y}}

    with n_x the number of pairs of classes that x does not tie, n_y likewise; 0 where a row ties
    them all.

    Args:
        x: ``(n, C)``.
        y: ``(n, C)``.

    Returns:
        ``(n,)`` in [-1, 1].

    Source: Kendall 1945 (Biometrika 33).
    """
    x, y = wide(x.detach()), wide(y.detach())  # numbers of pairs overflow in half precision
    a, b = (v[:, :, None].sub(v[:, None, :]).sign().flatten(1) for v in (x, y))
    both = a.square().sum(1) * b.square().sum(1)
    return (a * b).sum(1) / both.clamp_min(1).sqrt()


def non_target_kl(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    r"""``KL(p̂_T || p̂_S)`` of each sample ``(n,)``, p̂ the softmax over the other classes.

    Args:
        student_logits: ``(n, C)``.
        teacher_logits: ``(n, C)`` of the same samples; detached.
        target: Classes ``(n,)``, int64: the column to leave out.
    """
    student_logits = wide(student_logits)
    # Half the most negative number, so that differences stay finite.
    out = torch.finfo(student_logits.dtype).min / 2
    hole = F.one_hot(target, student_logits.shape[1]).bool()
    s = student_logits.masked_fill(hole, out).log_softmax(-1)
    t = teacher_logits.detach().to(s.dtype).masked_fill(hole, out).log_softmax(-1)
    return (t.exp() * (t - s)).masked_fill(hole, 0.0).sum(-1)


def _kl(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    teacher = wide(teacher_logits.detach(), logits).softmax(-1)
    logits = wide(logits)
    return F.kl_div(logits.log_softmax(-1), teacher, reduction="batchmean")


class C2KD(PairMethod):
    r"""``c2kd``: distillation through proxies, on the pairs whose rankings of classes agree.

    Huo et al., CVPR 2024 ("C²KD: Bridging the Modality Gap for Cross-Modal Knowledge
    Distillation"), with the teacher frozen. A proxy of each side, one linear layer on its
    features, gives logits of its own. On each pair

    - ``self``: student and student proxy learn from each other,
      ``KL(p_S || proxy_S) + KL(proxy_S || p_S)``, the first distribution of each held fixed;
    - ``teacher``: the teacher proxy learns from the teacher, ``KL(p_T || proxy_T)``;
    - ``cross``: the proxies learn from each other about the classes other than the target
      (:func:`non_target_kl`, both ways), on those pairs alone where Kendall's τ between their
      logits exceeds ``threshold`` (the on-the-fly selection distillation); the mean is over all
      pairs, so that few selected pairs weigh little.

    Departures: the teacher is frozen, as everywhere in this package, so that its cross-entropy
    and ``KL(proxy_T || p_T)``, which train only the teacher, fall away, and "bidirectional" is
    between the proxies. Proxies are linear layers on the feature vectors instead of convolutions
    on feature maps. The target class is left out of the softmax; the released code sets its
    logit to 0 instead, which leaves it in. For unlabelled pairs the target is the teacher's
    largest logit.

    Terms: ``ce``, ``self``, ``teacher``, ``cross``; with labelled pairs ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        weight: λ ≥ 0 of ``cross``; ``self`` and ``teacher`` have weight 1.
        threshold: Smallest τ, in [-1, 1), that a pair must exceed.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of range.
    """

    name: ClassVar[str] = "c2kd"
    requires = ("paired", "paired_teacher_feature", "paired_teacher_logits")

    def __init__(
        self, student: Student, *, weight: float = 1.0, threshold: float = 0.0, **options: Any
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        checks.number("threshold", threshold, minimum=-1.0, below=1.0)
        self.weight = weight
        self.threshold = threshold
        self.student_proxy = nn.Linear(student.width, self.num_classes)
        self.teacher_proxy = nn.Linear(self.teacher_width, self.num_classes)

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "self": 1, "teacher": 1, "cross": weight, "pair_ce": 1}``."""
        return {"ce": 1.0, "self": 1.0, "teacher": 1.0, "cross": self.weight, "pair_ce": 1.0}

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``{"self", "teacher", "cross"}``."""
        assert batch.paired_teacher_feature is not None
        assert batch.paired_teacher_logits is not None
        own = self.student_proxy(features)
        theirs = self.teacher_proxy(batch.paired_teacher_feature)
        target = self.pair_target(batch)
        chosen = (kendall_tau(own, theirs) > self.threshold).to(own.dtype)
        cross = non_target_kl(own, theirs, target) + non_target_kl(theirs, own, target)
        return {
            "self": _kl(own, logits) + _kl(logits, own),
            "teacher": _kl(theirs, batch.paired_teacher_logits),
            "cross": (chosen * cross).mean(),
        }
