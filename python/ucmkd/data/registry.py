"""`load`: any data set by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ucmkd.data import audiovisual, bundled, degraded, files, motion, speech, tabular
from ucmkd.data._names import unknown_name
from ucmkd.data.base import Dataset, Views
from ucmkd.data.fetch import Progress


@dataclass(frozen=True)
class Entry:
    """One data set of the registry.

    Attributes:
        summary: One line for a listing.
        origin: "bundled" (no network), "fetched" (once, then cached) or "local" (`UCMKD_DATA`).
        views: Names of the views; empty for one modality.
        read: `read(data_root, views, progress)`.
    """

    summary: str
    origin: str
    views: tuple[str, ...]
    read: Callable[[str | Path | None, Iterable[str] | None, Progress | None], Dataset | Views]


DATASETS: dict[str, Entry] = {
    "brca": Entry(
        "TCGA breast cancer: 769 patients, three omics, PAM50 subtypes",
        "fetched",
        tabular.BRCA_VIEWS,
        lambda root, views, progress: tabular.brca(views=views, progress=progress),
    ),
    "mfeat": Entry(
        "UCI multiple features: 2000 handwritten digits described in six ways",
        "fetched",
        tabular.MFEAT_VIEWS,
        lambda root, views, progress: tabular.mfeat(views=views, progress=progress),
    ),
    "optdigits": Entry(
        "UCI optical digits: 5620 images of 8×8",
        "fetched",
        (),
        lambda root, views, progress: tabular.optdigits(progress=progress),
    ),
    "penbased": Entry(
        "UCI pen-based digits: 10992 trajectories of 8 points",
        "fetched",
        (),
        lambda root, views, progress: tabular.penbased(progress=progress),
    ),
    "smartwatch": Entry(
        "smartwatch: 2369 windows of shoulder exercises, ten subjects, two sensors",
        "fetched",
        motion.SMARTWATCH_VIEWS,
        lambda root, views, progress: motion.smartwatch(views=views, progress=progress),
    ),
    "mnist10k": Entry(
        "MNIST: 10000 images of 28×28",
        "local",
        (),
        lambda root, views, progress: files.mnist10k(root),
    ),
    "sign32": Entry(
        "signed digits: 2062 photographs of 32×32",
        "local",
        (),
        lambda root, views, progress: files.sign32(root),
    ),
    "spoken_digits": Entry(
        "spoken digits: 3000 log-mel spectrograms, six speakers",
        "local",
        (),
        lambda root, views, progress: speech.spoken_digits(root),
    ),
    "digits": Entry(
        "scikit-learn's 1797 digits in two views, pixels and shape",
        "bundled",
        bundled.DIGITS_VIEWS,
        lambda root, views, progress: bundled.digits(views=views),
    ),
    "digits_pixels": Entry(
        "scikit-learn's digits, first half, as images",
        "bundled",
        (),
        lambda root, views, progress: bundled.digits_pixels(),
    ),
    "digits_shape": Entry(
        "scikit-learn's digits, second half, as Fourier magnitudes and projections",
        "bundled",
        (),
        lambda root, views, progress: bundled.digits_shape(),
    ),
    "digits_degraded": Entry(
        "scikit-learn's 1797 digits, sharp, blurred, noisy, and their shape numbers",
        "bundled",
        degraded.DEGRADED_VIEWS,
        lambda root, views, progress: degraded.digits_degraded(views=views),
    ),
    "ave": Entry(
        "AVE: 4143 audio-visual events in videos, 28 classes",
        "local",
        audiovisual.VIEWS,
        lambda root, views, progress: audiovisual.ave(root, views=views, progress=progress),
    ),
    "ravdess": Entry(
        "RAVDESS: 1440 spoken sentences of 24 actors, 8 emotions",
        "local",
        audiovisual.VIEWS,
        lambda root, views, progress: audiovisual.ravdess(root, views=views, progress=progress),
    ),
    "cremad": Entry(
        "CREMA-D: 7442 spoken sentences of 91 actors, 6 emotions",
        "local",
        audiovisual.VIEWS,
        lambda root, views, progress: audiovisual.cremad(root, views=views, progress=progress),
    ),
    "vggsound": Entry(
        "VGGSound: some 200,000 videos of 10 s, 309 classes",
        "local",
        audiovisual.VIEWS,
        lambda root, views, progress: audiovisual.vggsound(root, views=views, progress=progress),
    ),
}


def load(
    name: str | Path,
    data_root: str | Path | None = None,
    *,
    views: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Dataset | Views:
    """Load a data set.

    Args:
        name: A key of `ucmkd.data.DATASETS`, or the path of an `.npz` file (see `load_npz`).
        data_root: Folder of local data sets; None: the environment variable `UCMKD_DATA`.
        views: For a multi-view data set, the views to read; None for all.
        progress: See `fetch`.

    Returns:
        `Views` for a data set with several views (`.view(name)` is one of them as a `Dataset`),
        else a `Dataset`.

    Raises:
        ValueError: An unknown name (the message has the nearest one), views asked of a data set
            that has none, or data that is not as described.
        DataNotFoundError: A local data set is not where it was sought.
        FetchError: A data set could not be fetched.
    """
    if isinstance(name, Path) or str(name).lower().endswith(".npz"):
        if views is not None:
            raise ValueError(f"views must be None for a file with one modality, got {views!r}")
        return files.load_npz(name)
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    entry = DATASETS[name]
    if views is not None and not entry.views:
        raise ValueError(f"views must be None for {name}, which has one modality; got {views!r}")
    return entry.read(data_root, views, progress)
