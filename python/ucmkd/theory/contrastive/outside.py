"""How well a learnt encoder tells the classes of data it was not trained on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..gaussian import checks
from .descent import Encoder, Seen, features, learn
from .model import Sample, TwoTokens, draw


class Accuracy(NamedTuple):
    """Accuracy of a logistic regression on the features of unseen data.

    Attributes:
        training_head: Fitted on the training samples: the head comes from inside.
        outside_head: Fitted on as many labelled samples of the unseen kind.
    """

    training_head: float
    outside_head: float


def outside_accuracy(
    encoder: Encoder, model: TwoTokens, sample: Sample, *, test_samples: int = 1000, seed: int = 0
) -> Accuracy:
    """Accuracies on fresh ``[yν, ζ]``; needs scikit-learn.

    The paper fits "logistic regression on the learned features"; which samples it fits on is left
    open, so both readings are given. The first matches its figure 1.

    Args:
        encoder: Of the first modality.
        model: The setting.
        sample: What the encoder was trained on.
        test_samples: At least 2.
        seed: Of the unseen data.
    """
    checks.count("test_samples", test_samples, 2)
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError(
            "outside_accuracy needs scikit-learn: pip install 'ucmkd[train]'"
        ) from error
    rng = np.random.default_rng((seed, 1))
    count = model.samples + test_samples
    labels = np.where(rng.random(count) < 0.5, 1.0, -1.0)
    labels[:2] = 1.0, -1.0
    signal = np.zeros((1, model.dimension))
    signal[0, 0] = model.outside_signal
    noise = model.noise * rng.standard_normal((count, model.dimension))
    outside = features(Seen(encoder.at(signal)[:, 0], encoder.at(noise)), labels)
    own, rest = slice(model.samples), slice(model.samples, None)

    def score(x: object, y: object) -> float:
        head = LogisticRegression(max_iter=2000).fit(x, y)
        return float(head.score(outside[rest], labels[rest]))

    inside = features(encoder.seen, sample.labels)
    return Accuracy(score(inside, sample.labels), score(outside[own], labels[own]))


def compare(model: TwoTokens, *, seed: int = 0, test_samples: int = 1000) -> dict[str, Accuracy]:
    """Both kinds of learning on one draw: accuracies under ``single`` and ``multi``."""
    sample = draw(model, seed)
    return {
        name: outside_accuracy(
            learn(model, sample, multimodal=multimodal).encoder,
            model,
            sample,
            test_samples=test_samples,
            seed=seed,
        )
        for name, multimodal in (("single", False), ("multi", True))
    }
