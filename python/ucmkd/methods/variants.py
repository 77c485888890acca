"""The variants of UCMKD: what the options left open become, and what they may be.

Where the authors' released code (``Duckduck-05/UCMKD``) departs from the paper, each departure is
an option of its own, and ``variant="released"`` sets them all; an option that is given counts.

- *Label alignment.* The features are detached (``la_detach_features``) and the teacher head runs
  without gradients (``la_detach_teacher``), so that ∇LA is ∇CE of the student's head. As printed
  the encoder receives the gradient through both heads, and κ is held fixed.
- *Inner steps.* One AdamW (``inner_optimizer``) for both loops of a step, ``inner_lr`` 1e-5 and
  ``inner_weight_decay`` .05, and no λ (``inner_weighted=False``). As printed: plain descent with
  η λ. The paper's η is not given; 1.0 can collapse the student within one step, hence .01.
- *Feature alignment.* The cosine ``cost`` (its default; the paper's is Euclidean), an absolute
  ε = .1 (``epsilon_scale=None``), and ``<P, M>`` without the entropy term, differentiated through
  the plan (``sharp=True``). The paper's ε is absolute as well; ours is .1 of the mean cost unless
  ``"released"``, because a raw distance between wide features is far from 1. The code's float32
  scaling loop, which underflows for costs above 10, is not imitated.
- *Unequal widths.* Normalised and cut to the smaller (``projector="truncate"``), and LA is then
  plain CE. Elsewhere a learned projector.
- *Batches.* The "unpaired" loaders draw both modalities from the same classes
  (``class_matched=True``). As printed they are independent.
- *No departure:* first-order MAML, and BatchNorm statistics that see every pass (copied back
  there, shared here). Clipping at 5.0, momentum, warm-up and bfloat16 are the trainer's.
"""

from __future__ import annotations

from typing import Any

from ucmkd.losses.label import KAPPA
from ucmkd.methods import checks
from ucmkd.methods.inner import OPTIMIZERS

_PRINTED: dict[str, Any] = {
    "inner_optimizer": "sgd",
    "inner_lr": 0.01,
    "inner_weight_decay": 0.0,
    "inner_weighted": True,
    "la_detach_features": False,
    "la_detach_teacher": False,
    "cost": "euclidean",
    "epsilon_scale": "mean",
    "sharp": False,
    "projector": "auto",
    "class_matched": False,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "printed": _PRINTED,
    "released": {
        "inner_optimizer": "adamw",
        "inner_lr": 1e-5,
        "inner_weight_decay": 0.05,
        "inner_weighted": False,
        "la_detach_features": True,
        "la_detach_teacher": True,
        "cost": "cosine",
        "epsilon_scale": None,
        "sharp": True,
        "projector": "truncate",
        "class_matched": True,
    },
    "joint": _PRINTED,
}

PROJECTORS = ("auto", "linear", "identity", "truncate")


def settled(variant: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The options with those left open (None; ``"auto"`` for ``epsilon_scale``) filled in.

    Args:
        variant: A key of :data:`VARIANTS`.
        given: All options of UCMKD but those of FA's solver, which are checked where they are used.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of range; ``outer="second_order"`` with the sharp transport cost,
            which can be differentiated once.
    """
    checks.choice("variant", variant, VARIANTS)
    left_open = {name: None for name in VARIANTS[variant]} | {"epsilon_scale": "auto"}
    found = dict(given)
    for name, value in VARIANTS[variant].items():
        if found[name] == left_open[name]:
            found[name] = value
    checks.choice("outer", found["outer"], ("first_order", "second_order"))
    checks.choice("inner_optimizer", found["inner_optimizer"], OPTIMIZERS)
    checks.choice("kappa", found["kappa"], KAPPA)
    checks.choice("projector", found["projector"], PROJECTORS)
    for name in ("fa_weight", "la_weight", "inner_weight_decay"):
        checks.number(name, found[name])
    for name in ("fa_steps", "la_steps"):
        checks.integer(name, found[name])
    for name in ("inner_weighted", "la_detach_features", "la_detach_teacher", "sharp",
                 "class_matched", "paired"):  # fmt: skip
        checks.flag(name, found[name])
    checks.number("inner_lr", found["inner_lr"], strict=True)
    transport = found["sharp"] and found["alignment"] == "sinkhorn"
    if found["outer"] == "second_order" and transport and variant != "joint":
        raise ValueError(
            "outer='second_order' needs sharp=False, as the sharp transport cost can be "
            f"differentiated once; got sharp=True (variant={variant!r})"
        )
    return found
