"""Linear evaluation: what a linear classifier makes of frozen features, stream by stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def linear_evaluation(
    features: Mapping[str, Tensor],
    labels: Tensor,
    test_features: Mapping[str, Tensor],
    test_labels: Tensor,
    *,
    strength: float = 1.0,
) -> dict[str, float]:
    """Test accuracy of a logistic regression on each stream, and of all together.

    Features are standardised by the training samples. The ensemble adds up the streams'
    log-probabilities, as the paper's adds up their scores.

    Args:
        features: Of each stream ``(n, width)``; the widths may differ.
        labels: Classes ``(n,)``.
        test_features: Of the same streams ``(m, width)``.
        test_labels: ``(m,)``.
        strength: C of the regression, the inverse of its L2 penalty, > 0.

    Returns:
        Accuracies in [0, 1] by stream, and ``"ensemble"``.

    Raises:
        ValueError: Other streams or rows, or fewer than two classes among the labels.
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(
            "linear_evaluation needs scikit-learn: pip install 'ucmkd[train]'"
        ) from error
    if not features or set(features) != set(test_features):
        raise ValueError(
            "features and test_features must have the same streams, at least one, got "
            f"{sorted(features)} and {sorted(test_features)}"
        )
    for place, given, label in (
        ("features", features, labels),
        ("test_features", test_features, test_labels),
    ):
        rows = {name: len(values) for name, values in given.items()}
        if set(rows.values()) != {len(label)}:
            raise ValueError(f"{place} must have {len(label)} rows, one per label, got {rows}")
    if len(labels.unique()) < 2:
        raise ValueError("labels must hold at least two classes, got one")
    truth = test_labels.numpy()
    total: NDArray[np.floating] | None = None
    found: dict[str, float] = {}
    for name, values in features.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
        model.fit(values.double().numpy(), labels.numpy())
        probability = model.predict_proba(test_features[name].double().numpy())
        score = np.log(np.maximum(probability, np.finfo(np.float64).tiny))
        found[name] = float((model.classes_[score.argmax(1)] == truth).mean())
        total = score if total is None else total + score
    assert total is not None
    found["ensemble"] = float((model.classes_[total.argmax(1)] == truth).mean())
    return found
