"""Latent mutual information: paired autoencoders, then neighbours among held-out latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ucmkd.information.held_out import HeldOut, halves, over_halves
from ucmkd.information.intervals import Rows
from ucmkd.information.ksg import ksg1
from ucmkd.information.mixed import every_class_once, ross
from ucmkd.information.reduction import standard_scores
from ucmkd.information.ties import jitter
from ucmkd.information.training import Progress, Training, fit, isolated, perceptron
from ucmkd.information.variables import Array, Variable, to_tensor


class PairedAutoencoder(nn.Module):
    """One encoder per continuous side, and from each latent a decoder to either side.

    A discrete side has no encoder: its classes are the latent, and its decoder gives logits.
    """

    def __init__(self, widths: tuple[int, int], classes: tuple[int, int], training: Training):
        super().__init__()
        self.classes = classes
        sides = [side for side in (0, 1) if not classes[side]]
        outputs = [classes[side] or widths[side] for side in (0, 1)]
        self.encoders = nn.ModuleDict({
            str(side): perceptron(
                widths[side], training.width, min(training.latent, widths[side]),
                dropout=training.dropout,
            )
            for side in sides
        })  # fmt: skip
        self.decoders = nn.ModuleDict({
            f"{side}{target}": perceptron(
                min(training.latent, widths[side]), training.width, outputs[target],
                dropout=training.dropout,
            )
            for side in sides for target in (0, 1)
        })  # fmt: skip

    def encode(self, side: int, values: Tensor) -> Tensor:
        """Latents ``(n, latent)`` of one continuous side."""
        found: Tensor = self.encoders[str(side)](values)
        return found

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Self- and cross-reconstruction, each as a share of its target's variance."""
        sides = (x, y)
        total = x.new_zeros(())
        for name in self.encoders:
            latent = self.encode(int(name), sides[int(name)])
            for target in (0, 1):
                out = self.decoders[f"{name}{target}"](latent)
                if self.classes[target]:
                    total = total + cross_entropy(out, sides[target][:, 0].long())
                else:
                    total = total + mse_loss(out, sides[target])
        return total


def latent(
    x: Variable,
    y: Variable,
    *,
    k: int,
    training: Training,
    seed: int,
    progress: Progress | None = None,
) -> HeldOut:
    """Autoencoders trained on each half; KSG, or Ross beside a label, on the other's latents.

    Early stopping judges a part of the training half with dropout off, and the best weights are
    put back before anything is encoded.

    Args:
        x: ``(n, d_x)`` of columns with variance 1, or classes.
        y: ``(n, d_y)`` likewise; at least one side is continuous.
        k: Neighbours.
        training: The settings.
        seed: Of the halves, the weights and the batches.
        progress: Called with (done, of) steps.

    Source: Gowri, Lun, Klein and Yin 2024 (arXiv 2409.02732), section 3.
    """
    parts = halves(len(x), seed)
    estimates: list[Callable[[Rows], float]] = []
    for number in (0, 1):
        done = number * training.steps

        def report(step: int, most: int, done: int = done) -> None:
            if progress is not None:
                progress(done + step, 2 * most)

        train, test = parts[1 - number], parts[number]
        found = _encode_held_out(x, y, train, test, training, seed + number, report)
        estimates.append(_evaluation(found, k))
    if progress is not None:
        progress(2 * training.steps, 2 * training.steps)
    return HeldOut(over_halves(parts, estimates, len(x)), len(x))


def _encode_held_out(
    x: Variable, y: Variable, train: Rows, test: Rows, training: Training, seed: int,
    report: Progress,
) -> list[Variable]:  # fmt: skip
    sides = (x, y)
    data = [to_tensor(side.values).float() for side in sides]
    classes = [int(side.values.max()) + 1 if side.discrete else 0 for side in sides]
    generator = torch.Generator().manual_seed(seed)
    order = torch.from_numpy(train)[torch.randperm(len(train), generator=generator)]
    count = max(2, round(training.validation * len(order)))
    held, used = order[:count], order[count:]
    with isolated(seed):
        model = PairedAutoencoder((x.width, y.width), (classes[0], classes[1]), training)

        def loss(rows: Tensor) -> Tensor:
            return model.loss(data[0][used[rows]], data[1][used[rows]])

        def validate() -> Tensor:
            return model.loss(data[0][held], data[1][held])

        fit(model, loss, validate, len(used), training, generator, report)
    rows = torch.from_numpy(test)
    found = []
    for number, side in enumerate(sides):
        if side.discrete:
            found.append(side.rows(test))
            continue
        found.append(_latents(model, number, data[number][rows], seed))
    return found


def _latents(model: PairedAutoencoder, number: int, values: Tensor, seed: int) -> Variable:
    """Held-out latents of one side with variance 1, their ties broken."""
    distinct, place = torch.unique(values, dim=0, return_inverse=True)
    repeated = len(distinct) < len(values)
    with torch.no_grad():
        # Rounding depends on the row: equal samples are encoded once, or it would part them.
        code: Array = model.encode(number, distinct if repeated else values).double().numpy()
    if not repeated:
        return Variable(standard_scores(code), False)
    side = Variable(standard_scores(code[place.numpy()]), False)
    # A stream of its own for either side: common noise would be taken for dependence.
    return jitter(side, [seed, 2 + number])


def _evaluation(found: list[Variable], k: int) -> Callable[[Rows], float]:
    def estimate(rows: Rows) -> float:
        x, y = (side.rows(rows) for side in found)
        if x.discrete or y.discrete:
            features, label = (y, x) if x.discrete else (x, y)
            if every_class_once(label.codes):
                return 0.0  # a subset of a half; all samples have been looked at
            return ross(features.values, label.codes, k=k)
        return ksg1(x.values, y.values, k=k)

    return estimate
