"""Data: what is fetched, read, split and drawn; nothing here knows of losses or methods.

>>> from ucmkd import data
>>> rna = data.load("brca").view("rna")                    # doctest: +SKIP
>>> split = data.unpaired_split(rna.labels, seed=0)        # doctest: +SKIP
"""

from ucmkd.data.base import DataNotFoundError, Dataset, Views, require_same_classes
from ucmkd.data.bundled import digits, digits_pixels, digits_shape
from ucmkd.data.degraded import digits_degraded
from ucmkd.data.fetch import FetchError, cache_folder, fetch, is_cached
from ucmkd.data.files import load_npz, mnist10k, save_npz, sign32
from ucmkd.data.groups import GroupSampler
from ucmkd.data.loaders import (
    ClassMatchedSampler,
    InfiniteSampler,
    PairedLoader,
    UnpairedIndices,
    UnpairedSampler,
)
from ucmkd.data.motion import smartwatch
from ucmkd.data.registry import DATASETS, load
from ucmkd.data.sources import SOURCES
from ucmkd.data.speech import spoken_digits
from ucmkd.data.split import (
    UnpairedSplit,
    assert_disjoint,
    few_labels,
    long_tail,
    long_tail_counts,
    stratified_parts,
    top_variance,
    unpaired_split,
)
from ucmkd.data.standardise import Standardiser
from ucmkd.data.subset import reweighted_subset, stratified_subset
from ucmkd.data.tabular import brca, mfeat, optdigits, penbased

__all__ = [
    "DATASETS",
    "SOURCES",
    "ClassMatchedSampler",
    "DataNotFoundError",
    "Dataset",
    "FetchError",
    "GroupSampler",
    "InfiniteSampler",
    "PairedLoader",
    "Standardiser",
    "UnpairedIndices",
    "UnpairedSampler",
    "UnpairedSplit",
    "Views",
    "assert_disjoint",
    "brca",
    "cache_folder",
    "digits",
    "digits_degraded",
    "digits_pixels",
    "digits_shape",
    "fetch",
    "few_labels",
    "is_cached",
    "load",
    "load_npz",
    "long_tail",
    "long_tail_counts",
    "mfeat",
    "mnist10k",
    "optdigits",
    "penbased",
    "require_same_classes",
    "reweighted_subset",
    "save_npz",
    "sign32",
    "smartwatch",
    "spoken_digits",
    "stratified_parts",
    "stratified_subset",
    "top_variance",
    "unpaired_split",
]
