"""``mutual_information``: the one function most callers need."""

from __future__ import annotations

from ucmkd.information.estimate import MIEstimate
from ucmkd.information.estimator import Estimator, Progress
from ucmkd.information.training import Training
from ucmkd.information.variables import Data


def mutual_information(
    x: Data,
    y: Data,
    *,
    method: str = "auto",
    reduce: int | None = None,
    k: int = 3,
    margins: str = "auto",
    shrinkage: float | str = "auto",
    folds: int = 5,
    training: Training | None = None,
    confidence: float = 0.95,
    subsamples: int = 30,
    seed: int = 0,
    progress: Progress | None = None,
) -> MIEstimate:
    r"""I(X; Y) in nats, with an interval and what speaks against trusting it.

    Floating-point sides ``(n,)`` or ``(n, d)`` are continuous, integer or boolean ones ``(n,)``
    are discrete. Row i of x belongs to row i of y.

    ``method`` is one of

    - ``"auto"``: the best suited one; the answer's ``reason`` says why. See
      :func:`ucmkd.information.choice.choose`.
    - ``"gaussian"``: canonical correlations, exactly unbiased for Gaussian samples.
    - ``"student"``: a Student copula, for heavy tails.
    - ``"ksg"`` (``"ksg1"``) and ``"ksg2"``: Kraskov's, two continuous sides.
    - ``"ksg0"``: KSG carried on to no neighbours at all, for densities with sharp edges.
    - ``"canonical"``: what few nonlinear functions of either side have in common, for two
      continuous sides of some dimensions.
    - ``"ross"``: a label and a continuous side; ``"mixed"``: Gao's, atoms and density.
    - ``"discrete"``: the table of counts, with Miller and Madow's correction.
    - ``"knn"``: ksg, ross or discrete, as the kinds of both sides ask for.
    - ``"classifier"``: held-out ``H(Y) - CE`` of logistic regression, a lower bound.
    - ``"latent"``: autoencoders to few dimensions, then nearest neighbours of the latents of
      held-out samples.
    - ``"mine"``, ``"nwj"``, ``"infonce"``, ``"smile"``: a trained critic, valued on held-out
      samples; the first three are lower bounds.

    Ties of continuous values (rounding, 8 bits, one-hot) are broken by tiny noise where neighbours
    are sought, which leaves the information as it is. Of two continuous sides ``"auto"`` and
    ``"student"`` leave out columns that order the samples as another of the side does, or in
    reverse: to a copula they are one column.

    Args:
        x: One side, a tensor or numpy array.
        y: The other.
        method: See above.
        reduce: Reduce each continuous side to so many whitened principal components first.
        k: Neighbours of ksg, ross and mixed.
        margins: ``"standard"`` scales every column to variance 1, ``"normal"`` replaces it by
            its normal scores (the information stays the same), ``"raw"`` leaves it.
            ``"auto"``: normal for ``method="auto"``, standard otherwise.
        shrinkage: Of ``"gaussian"``: ``"auto"`` or the weight of the identity in [0, 1].
        folds: Of ``"classifier"``.
        training: Of the methods that train networks; None for the defaults.
        confidence: Of the interval, in (0, 1).
        subsamples: Subsets of half of the samples for the interval; 0 for none.
        seed: Makes the answer repeatable.
        progress: Called with (done, of) while it works.

    Returns:
        The estimate. A constant side gives 0 with a warning.

    Raises:
        TypeError: A side that is no tensor or array of real numbers, or an option of the wrong
            kind.
        ValueError: NaN or infinite values, different numbers of samples, a single class, too few
            samples for the method, kinds that the method does not take, or a bad option; the
            message names the argument.
    """
    estimator = Estimator(
        method=method, reduce=reduce, k=k, margins=margins, shrinkage=shrinkage, folds=folds,
        training=Training() if training is None else training,
        confidence=confidence, subsamples=subsamples, seed=seed, progress=progress,
    )  # fmt: skip
    return estimator(x, y)
