r"""Where the signal is learnt before the noise: accuracy on unseen data over SNR and C_μ.

Early in training the signal grows by ``η‖μ‖²·C_μ/(2mτ)`` a step (C_μ = 1 for single-modal
learning) and the noise of a sample by about ``ησ²d/(nmτ)`` (lemmas 5.2 and 5.4), so that the signal
comes first where ``C_μ · n·SNR² > 2``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .descent import Learned, learn
from .model import Array, TwoTokens, draw, signal_for
from .outside import outside_accuracy

BALANCES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.25, 2.5, 5.0, 10.0, 20.0)
ADVANTAGES = (0.25, 0.5, 1.0, 1.5, 2.0, 2.66, 4.0, 6.0)


@dataclass(frozen=True)
class Row:
    """One training; ``advantage`` 0 stands for single-modal learning."""

    balance: float
    advantage: float
    seed: int
    training_head: float
    outside_head: float
    signal: float
    noise: float
    loss: float


def sweep(
    model: TwoTokens,
    *,
    balances: Sequence[float] = BALANCES,
    advantages: Sequence[float] = ADVANTAGES,
    seeds: Sequence[int] = (0, 1, 2),
    test_samples: int = 1000,
) -> Iterator[Row]:
    """Rows of every seed, ``n·SNR²`` and C_μ (and single-modal learning), as they are known.

    ‖μ‖ changes; the unseen signal ‖ν‖ and all else stay, except that the learning rate is lowered
    where ``η C_μ‖μ‖²`` would exceed that of ``model``: the theorems want small steps, and after
    larger ones the loss is zero before the neurons agree on a scale.

    Args:
        model: The setting; its ``signal`` and ``advantage`` are replaced.
        balances: ``n·SNR²``.
        advantages: C_μ.
        seeds: Of data and initial weights.
        test_samples: Of the accuracy.
    """
    for seed in seeds:
        sample = draw(model, seed)
        for balance in balances:
            signal = signal_for(
                balance, samples=model.samples, dimension=model.dimension, noise=model.noise
            )
            for advantage in (0.0, *advantages):
                here = replace(model, signal=signal, advantage=advantage or 1.0)
                here = replace(here, rate=model.rate * min(1.0, _growth(model) / _growth(here)))
                found = learn(here, sample, multimodal=advantage > 0)
                score = outside_accuracy(
                    found.encoder, here, sample, test_samples=test_samples, seed=seed
                )
                yield Row(
                    balance, advantage, seed, *score, float(found.signal[-1]),
                    float(found.noise[-1]), float(found.loss[-1]),
                )  # fmt: skip


def _growth(model: TwoTokens) -> float:
    return model.advantage * model.signal**2


def mean_accuracy(rows: Sequence[Row], balance: float, advantage: float) -> float:
    """Over the seeds, with the head from the training samples."""
    return float(
        np.mean([r.training_head for r in rows if (r.balance, r.advantage) == (balance, advantage)])
    )


def write(rows: Sequence[Row], path: Path) -> None:
    """A CSV with a line per training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        for row in rows:
            values = asdict(row).values()
            writer.writerow(f"{v:.5g}" if isinstance(v, float) else v for v in values)


def draw_transition(
    rows: Sequence[Row], single: Learned, multi: Learned, path: Path, *, advantage: float
) -> None:
    """Training curves, accuracy over ``n·SNR²``, and accuracy over both, as a PNG.

    Needs matplotlib.

    Args:
        rows: Of :func:`sweep`.
        single: A single-modal training.
        multi: A multi-modal one of the same setting.
        path: Of the file; its folder is made.
        advantage: C_μ of ``multi``, for its caption.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("draw_transition needs matplotlib: pip install 'ucmkd[train]'") from error
    balances = np.array(sorted({r.balance for r in rows}))
    advantages = np.array(sorted({r.advantage for r in rows} - {0.0}))
    figure = Figure(figsize=(13.5, 4.2), dpi=90, layout="constrained")
    axes: Any = figure.subplots(1, 3)
    _draw_training(axes[0], single, multi, advantage)
    for value, colour in zip((0.0, 1.0, 2.66, 6.0), _COLOURS, strict=True):
        if value in {r.advantage for r in rows}:
            heights = [mean_accuracy(rows, b, value) for b in balances]
            label = f"multi-modal, $C_\\mu$ = {value:g}" if value else "single-modal"
            axes[1].plot(balances, heights, marker="o", markersize=4, color=colour, label=label)
    axes[1].axvline(2.0, color="0.6", linewidth=0.8, linestyle=":")
    axes[1].set(
        xscale="log", xlabel="n·SNR²", ylabel="accuracy on unseen data", ylim=(0.45, 1.02),
        title="Unseen data over SNR; dotted: n·SNR² = 2",
    )  # fmt: skip
    axes[1].legend(fontsize=8, loc="lower right")
    height: Array = np.array([[mean_accuracy(rows, b, a) for b in balances] for a in advantages])
    mesh = axes[2].pcolormesh(
        balances, advantages, height, vmin=0.5, vmax=1.0, cmap="viridis", shading="gouraud"
    )
    line = np.geomspace(balances[0], balances[-1], 200)
    axes[2].plot(line, 2.0 / line, color="white", linewidth=1.5, linestyle="--")
    axes[2].set(
        xscale="log", yscale="log", xlim=(balances[0], balances[-1]),
        ylim=(advantages[0], advantages[-1]), xlabel="n·SNR²", ylabel="$C_\\mu$",
        title="Multi-modal; dashed: $C_\\mu\\,n\\,$SNR² = 2",
    )  # fmt: skip
    axes[2].set_yticks(advantages, [f"{a:g}" for a in advantages], minor=False)
    axes[2].set_yticks([], minor=True)
    figure.colorbar(mesh, ax=axes[2], label="accuracy on unseen data")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")


#: Okabe and Ito's palette.
_COLOURS = ("#000000", "#56B4E9", "#0072B2", "#D55E00")


def _draw_training(axis: Any, single: Learned, multi: Learned, advantage: float) -> None:
    steps = np.arange(len(single.loss))
    for found, style, name in ((single, "--", "single"), (multi, "-", "multi")):
        axis.plot(steps, found.signal, style, color="#D55E00", label=f"signal, {name}")
        axis.plot(steps, found.noise, style, color="#0072B2", label=f"noise, {name}")
        axis.plot(steps, found.loss / found.loss[0], style, color="0.6", label=f"loss, {name}")
    axis.set(
        xlabel="step", ylabel="max |γ|, max ρ; loss over its first value",
        title=f"What is learnt ($C_\\mu$ = {advantage:g})",
    )  # fmt: skip
    axis.legend(fontsize=8, ncols=2)
