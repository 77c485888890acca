"""Local data: images, spoken digits and one's own `.npz`, made here and real where it is."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from ucmkd import data
from ucmkd.data import DataNotFoundError, Dataset
from ucmkd.data.speech import log_mel, mel_filters, read_wave

# --- local --------------------------------------------------------------------------------------


def test_real_local_images(data_root):
    mnist, sign = data.load("mnist10k", data_root), data.load("sign32", data_root)
    assert isinstance(mnist, Dataset) and isinstance(sign, Dataset)
    assert mnist.inputs.shape == (10000, 28, 28) and sign.inputs.shape == (2062, 32, 32)
    assert mnist.inputs.dtype == np.float32 and mnist.inputs.max() == 1 and mnist.inputs.min() == 0
    assert mnist.flat().shape == (10000, 784)
    assert np.bincount(sign.labels).min() == 204


def test_real_spoken_digits(data_root):
    speech = data.load("spoken_digits", data_root)
    assert isinstance(speech, Dataset)
    assert speech.inputs.shape == (3000, 40, 64)
    assert speech.test is not None and speech.groups is not None
    assert speech.test.sum() == 300 and len(np.unique(speech.groups)) == 6
    assert np.bincount(speech.labels[speech.test]).tolist() == [30] * 10
    assert "0_george_0" in speech.ids[speech.test]
    # The nearest training recording on the official split (chance: 10 %).
    train, test = speech.flat()[~speech.test], speech.flat()[speech.test]
    distance = (train**2).sum(1) - 2 * test @ train.T
    found = speech.labels[~speech.test][distance.argmin(1)]
    assert (found == speech.labels[speech.test]).mean() > 0.8


def write_wave(path: Path, samples: np.ndarray, rate: int = 8000, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(channels)
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes((samples * 32767).astype("<i2").tobytes())


def test_spoken_digits_from_synthetic_recordings(tmp_path):
    folder = tmp_path / "free-spoken-digit-dataset" / "recordings"
    folder.mkdir(parents=True)
    time = np.arange(8000) / 8000
    write_wave(folder / "3_ann_4.wav", 0.5 * np.sin(2 * np.pi * 440 * time[:2000]))
    write_wave(folder / "7_bob_5.wav", 0.01 * np.sin(2 * np.pi * 2000 * np.tile(time, 2)))
    (folder / "notes.wav").write_bytes(b"not a recording, and not named like one")
    speech = data.spoken_digits(tmp_path, n_mels=20, frames=32)
    assert speech.inputs.shape == (2, 20, 32)
    assert speech.labels.tolist() == [3, 7] and speech.ids.tolist() == ["3_ann_4", "7_bob_5"]
    assert speech.groups is not None and speech.groups.tolist() == ["ann", "bob"]
    assert speech.test is not None and speech.test.tolist() == [True, False]
    # Each is 0 dB at its loudest, whatever its level; the short one is padded with silence.
    assert speech.inputs.max(axis=(1, 2)).tolist() == [0, 0]
    assert (speech.inputs[0, :, 20:] == -80).all() and (speech.inputs[1, :, -1] > -80).any()
    with pytest.raises(ValueError, match="n_mels"):
        data.spoken_digits(tmp_path, n_mels=0)


@pytest.mark.parametrize("frequency", [300.0, 1000.0, 3000.0])
def test_log_mel_puts_a_tone_into_its_band(frequency):
    bank = mel_filters(40, 256, 8000)
    tone = np.sin(2 * np.pi * frequency * np.arange(4000) / 8000)
    spectrogram = log_mel(tone, bank)
    assert spectrogram.shape == (40, 1 + -(-(4000 - 256) // 128))
    mel = 2595 * np.log10(1 + np.array([frequency, 4000]) / 700)
    expected = mel[0] / mel[1] * 41 - 1
    assert abs(int(spectrogram[:, 10].argmax()) - expected) <= 1.5
    np.testing.assert_allclose(log_mel(tone * 1e-3, bank), spectrogram, atol=1e-3)


def test_mel_filters_and_silence():
    for n_mels in (1, 40, 200):
        bank = mel_filters(n_mels, 256, 8000)
        assert bank.shape == (n_mels, 129) and (bank >= 0).all()
        np.testing.assert_allclose(bank.sum(axis=1), 1)
    silent = log_mel(np.zeros(100), mel_filters(8, 256, 8000))
    assert silent.shape == (8, 1) and (silent == -80).all()
    with pytest.raises(ValueError, match="signal"):
        log_mel(np.zeros(0), mel_filters(8, 256, 8000))


def test_bad_wave_files(tmp_path):
    path = tmp_path / "x.wav"
    samples = np.full(10, 0.5)
    write_wave(path, samples)
    np.testing.assert_allclose(read_wave(path), 0.5, atol=1e-4)
    write_wave(path, samples, rate=16000)
    with pytest.raises(ValueError, match="16000 Hz"):
        read_wave(path)
    write_wave(path, samples, channels=2)
    with pytest.raises(ValueError, match="got 2 of 2"):
        read_wave(path)
    write_wave(path, samples[:0])
    with pytest.raises(ValueError, match="no samples"):
        read_wave(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="cannot be read"):
        read_wave(path)


def test_local_data_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("UCMKD_DATA", raising=False)
    with pytest.raises(DataNotFoundError, match="UCMKD_DATA"):
        data.load("mnist10k")
    with pytest.raises(DataNotFoundError, match=f"{tmp_path}.*data_root"):
        data.load("sign32", tmp_path)
    monkeypatch.setenv("UCMKD_DATA", str(tmp_path))
    with pytest.raises(DataNotFoundError, match="from UCMKD_DATA"):
        data.load("spoken_digits")
    assert issubclass(DataNotFoundError, FileNotFoundError)


def test_local_images_of_another_shape(tmp_path):
    np.savez(tmp_path / "mnist10k.npz", X=np.zeros((3, 8, 8), np.uint8), y=np.arange(3))
    with pytest.raises(ValueError, match="X must be uint8"):
        data.load("mnist10k", tmp_path)


# --- own files ----------------------------------------------------------------------------------


def test_npz_round_trip(tmp_path):
    path = tmp_path / "own.npz"
    made = Dataset(
        "own",
        np.arange(12, dtype=np.float32).reshape(3, 2, 2),
        np.array([0, 2, 1]),
        ("a", "b", "c"),
        np.array(["x", "y", "z"]),
        groups=np.array(["g", "g", "h"]),
        test=np.array([False, True, False]),
    )
    data.save_npz(path, made)
    read = data.load(str(path))
    assert isinstance(read, Dataset)
    assert read.class_names == made.class_names and read.name == "own"
    for name in ("inputs", "labels", "ids", "groups", "test"):
        assert np.array_equal(getattr(read, name), getattr(made, name)), name


def test_npz_labels_become_classes(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, X=np.full((4, 2), 255, np.uint8), y=np.array([7, 3, 7, 9]))
    read = data.load(path)
    assert isinstance(read, Dataset)
    assert read.labels.tolist() == [1, 0, 1, 2] and read.class_names == ("3", "7", "9")
    assert (read.inputs == 1).all() and read.inputs.dtype == np.float32
    np.savez(path, X=np.zeros((2, 2)), y=np.array(["dog", "cat"]))
    read = data.load(path)
    assert isinstance(read, Dataset)
    assert read.labels.tolist() == [1, 0] and read.class_names == ("cat", "dog")


BAD = {
    "no y": ({"X": np.zeros((2, 2))}, r"must hold X \(inputs\) and y"),
    "rows": ({"X": np.zeros((2, 2)), "y": np.arange(3)}, "rows disagree.*'X': 2.*'y': 3"),
    "nan": ({"X": np.array([[0.0], [np.nan]]), "y": np.arange(2)}, "NaN or Inf in 1 of 2 .*row 1"),
    "overflow": ({"X": np.array([[1e300]]), "y": np.arange(1)}, "NaN or Inf"),
    "float y": ({"X": np.zeros((2, 2)), "y": np.zeros(2)}, "y must be integers or strings"),
    "y matrix": ({"X": np.zeros((2, 2)), "y": np.zeros((2, 1), int)}, "y must have one dimension"),
    "X vector": ({"X": np.zeros(2), "y": np.arange(2)}, "X must be real numbers"),
    "X text": ({"X": np.array([["a"], ["b"]]), "y": np.arange(2)}, "X must be real numbers"),
    "objects": ({"X": np.array([[{}]]), "y": np.arange(1)}, "Python objects are not read"),
    "empty": ({"X": np.zeros((0, 2)), "y": np.zeros(0, int)}, "no samples"),
    "names": (
        {"X": np.zeros((2, 2)), "y": np.array([0, 5]), "class_names": np.array(["a", "b"])},
        "labels must lie in 0…1",
    ),
    "test": ({"X": np.zeros((2, 2)), "y": np.arange(2), "test": np.arange(2)}, "test must be bool"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the overflow to float32 is the point
@pytest.mark.parametrize("case", BAD)
def test_npz_that_cannot_be_used(tmp_path, case):
    arrays, message = BAD[case]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load_npz(tmp_path / "bad.npz")


def test_files_that_are_no_npz(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(DataNotFoundError, match="no file"):
        data.load(path)
    for content in (b"", b"hello", b"PK\x03\x04 cut"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz"):
            data.load(path)
    np.savez_compressed(path, X=np.random.default_rng(0).random((50, 50)), y=np.arange(50))
    damaged = bytearray(path.read_bytes())
    damaged[2000:2100] = bytes(100)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"x\.npz cannot be read"):
        data.load(path)
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ValueError, match="one array"):
        data.load(path)
