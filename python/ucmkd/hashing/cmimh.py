r"""CMIMH, cross-modal info-max hashing: binary codes that tell much of the input and of each other.

Hoang, Do, Nguyen and Cheung, "Multimodal Mutual Information Maximization: A Novel Approach for
Unsupervised Deep Cross-Modal Hashing", TNNLS 2023 (arXiv 2112.06489). A *reconstruction*: no
official code exists, and only the paper's stated objective is taken over: bits are independent
Bernoulli variables given the input; variational bounds of the information between code and input
and between the two codes are maximised; the gap between the modalities is closed with a moderate
weight, as codes that agree entirely lose what only one modality knows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ucmkd.hashing.bounds import (
    code_entropy,
    conditional_entropy,
    modality_gap,
    prediction,
    straight_through,
)
from ucmkd.methods import checks


class CMIMH(nn.Module):
    r"""Two encoders, one for each modality, and two predictors of one code from the other.

    .. math:: \mathcal{L} = -\sum_{m} I_p(b^m; x^m)
        - \tfrac{\alpha}{2}\big[I_q(b^y; b^x) + I_q(b^x; b^y)\big] + \lambda\,E\|p^x - p^y\|^2

    .. math:: I_p(b; x) = \hat H_p(b) - H_p(b|x), \qquad
        I_q(b; c) = \hat H_q(b) + E \log q(b|c),

    the first with the code's own Bernoulli variables, the second with those that a linear predictor
    q gives from the other code; :math:`\hat H` is :func:`code_entropy` under either. Both are lower
    bounds of the information.

    Terms, in nats, to be minimised: ``information``, ``cross`` (both negated bounds) and ``gap``.

    Args:
        x_features: Width of the first modality.
        y_features: Width of the second.
        bits: k, length of the codes.
        hidden: Units of the encoders' one hidden layer.
        cross: α ≥ 0.
        gap: λ ≥ 0; without it the bits of the two codes have nothing to do with each other, and
            the larger it is, the less they tell (the default suits standardised inputs).

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A size below one, or a negative weight.
    """

    def __init__(
        self,
        x_features: int,
        y_features: int,
        *,
        bits: int = 32,
        hidden: int = 128,
        cross: float = 1.0,
        gap: float = 3.0,
    ) -> None:
        super().__init__()
        sizes = {"x_features": x_features, "y_features": y_features, "bits": bits, "hidden": hidden}
        for name, value in sizes.items():
            checks.integer(name, value, minimum=1)
        checks.number("cross", cross)
        checks.number("gap", gap)
        self.cross, self.gap, self.bits = cross, gap, bits
        self.widths = {"x": x_features, "y": y_features}
        self.encoders = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, bits))
                for name, width in self.widths.items()
            }
        )
        self.predictors = nn.ModuleDict({name: nn.Linear(bits, bits) for name in ("x", "y")})

    def check(self, name: str, inputs: Tensor) -> None:
        """Refuse what is no input of a modality.

        Args:
            name: ``"x"`` or ``"y"``.
            inputs: ``(n, x_features)`` or ``(n, y_features)``.

        Raises:
            TypeError: Not a floating tensor.
            ValueError: Another shape.
        """
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TypeError(f"{name} must be a floating tensor, got {kind}")
        width = self.widths[name]
        if inputs.ndim != 2 or inputs.shape[1] != width or not len(inputs):
            raise ValueError(f"{name} must have shape (n, {width}), got {tuple(inputs.shape)}")

    def terms(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``{"information", "cross", "gap"}`` of pairs ``(n, x_features)``, ``(n, y_features)``.

        Args:
            x: First modality.
            y: Second; row i is the same sample.
            generator: Of the drawn bits; None: PyTorch's global one.

        Raises:
            TypeError: Inputs that are not floating tensors.
            ValueError: Inputs of other shapes, or rows that are no pairs.
        """
        for name, inputs in (("x", x), ("y", y)):
            self.check(name, inputs)
        if len(x) != len(y):
            raise ValueError(f"x and y must be pairs, got {len(x)} and {len(y)} rows")
        logits = {"x": self.encoders["x"](x), "y": self.encoders["y"](y)}
        bits = {name: straight_through(value, generator) for name, value in logits.items()}
        information = sum(
            code_entropy(bits[name], logits[name]) - conditional_entropy(logits[name])
            for name in logits
        )
        cross = []
        for to, other in (("y", "x"), ("x", "y")):
            q = self.predictors[to](bits[other])
            cross.append(code_entropy(bits[to], q) + prediction(bits[to], q))
        return {
            "information": -torch.as_tensor(information),
            "cross": -(cross[0] + cross[1]) / 2,
            "gap": modality_gap(logits["x"], logits["y"]),
        }

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The weighted sum of :meth:`terms`, a 0-d tensor.

        Args:
            x: As there.
            y: As there.
            generator: As there.

        Raises:
            TypeError: As there.
            ValueError: As there.
        """
        terms = self.terms(x, y, generator)
        return terms["information"] + self.cross * terms["cross"] + self.gap * terms["gap"]

    @torch.no_grad()
    def codes(self, modality: str, inputs: Tensor) -> Tensor:
        """The likeliest code, ``(n, k)`` bool.

        Args:
            modality: ``"x"`` or ``"y"``.
            inputs: Of that modality, ``(n, x_features)`` or ``(n, y_features)``.

        Raises:
            TypeError: Inputs that are not a floating tensor.
            ValueError: Another modality, or inputs of another shape.
        """
        checks.choice("modality", modality, ("x", "y"))
        self.check(modality, inputs)
        found: Tensor = self.encoders[modality](inputs) > 0
        return found
