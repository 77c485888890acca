"""AVE, RAVDESS, CREMA-D and VGGSound, read from small files in their published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audiovisual_common import (
    COLOURS,
    PITCHES,
    make_ave,
    make_cremad,
    make_ravdess,
    make_vggsound,
    tone,
    write_film,
    write_wave,
)
from ucmkd import data
from ucmkd.data.audiovisual import Picture, Spectrogram, cremad, ravdess
from ucmkd.data.stored import StoredArray


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UCMKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(views: data.Views, name: str) -> np.ndarray:
    array = views.views[name]
    assert isinstance(array, StoredArray)
    return array.read()


def by_id(views: data.Views) -> dict[str, int]:
    return {name.split("/")[1]: row for row, name in enumerate(views.ids.tolist())}


def test_ave_keeps_the_official_split_and_no_video_on_two_sides(tmp_path: Path) -> None:
    views = data.load("ave", make_ave(tmp_path))
    assert isinstance(views, data.Views) and views.class_names == ("Bark", "Bell")
    row = by_id(views)
    assert set(row) == {"a1", "a2", "a3", "v1", "v2", "t1", "t2"}
    assert views.test is not None and views.validation is not None
    assert {name for name in row if views.test[row[name]]} == {"t1", "t2"}
    assert {name for name in row if views.validation[row[name]]} == {"v1", "v2"}
    labels = {name: views.class_names[views.labels[row[name]]] for name in row}
    assert labels["a3"] == "Bark" and labels["t1"] == "Bell"  # the first event that lasts
    assert rows(views, "audio").shape == (7, 1, 128, 500)
    frames = rows(views, "frames")
    assert frames.shape == (7, 3, 112, 112) and frames.dtype == np.float32
    # The middle one of three pictures, scaled to [0, 1].
    np.testing.assert_allclose(frames[0].mean(axis=(1, 2)) * 255, COLOURS[1], atol=8)


def test_ave_errors_name_file_line_and_layout(tmp_path: Path) -> None:
    with pytest.raises(data.DataNotFoundError, match=r"ave: no AVE_Dataset in .*data_root"):
        data.load("ave", tmp_path)
    root = make_ave(tmp_path)
    lists = root / "AVE_Dataset"
    (lists / "valSet.txt").rename(lists / "val.txt")
    with pytest.raises(data.DataNotFoundError, match=r"no file .*valSet\.txt; AVE_Dataset holds"):
        data.load("ave", root)
    (lists / "val.txt").rename(lists / "valSet.txt")
    (lists / "trainSet.txt").write_text("Bark&a1&good&0&1\nBark,a2,good,0,1\n")
    with pytest.raises(ValueError, match=r"trainSet\.txt, line 2: 'category&video id&quality"):
        data.load("ave", root)
    (lists / "trainSet.txt").write_text("Bark&a1&good&0&1\nBark&missing&good&0&1\n")
    with pytest.raises(ValueError, match=r"clip 'missing': there is no file .*AVE/missing\.mp4"):
        data.load("ave", root, views=["frames"])
    (lists / "trainSet.txt").write_text("Bark&a1&good&5&9\n")
    with pytest.raises(ValueError, match=r"a1\.wav has 3\.00 s of sound, none of it from 5 s to 9"):
        data.load("ave", root, views=["audio"])
    with pytest.raises(ValueError, match="did you mean 'frames'"):
        data.load("ave", root, views=["frame"])


def test_ravdess_clips_labels_and_actors(tmp_path: Path) -> None:
    root = make_ravdess(tmp_path, actors=3)
    views = data.load("ravdess", root)
    assert isinstance(views, data.Views)
    assert len(views) == 3 * 4 * 2 and views.num_classes == 8  # songs are left out
    assert views.test is None and views.validation is None and views.groups is not None
    assert sorted(set(views.groups.tolist())) == ["ravdess/01", "ravdess/02", "ravdess/03"]
    assert np.bincount(views.labels, minlength=8).tolist() == [6] * 4 + [0] * 4
    row = by_id(views)["01-03-01-01-02-02"]
    assert views.labels[row] == 2 and views.groups[row] == "ravdess/02"
    assert rows(views, "audio").shape == (24, 1, 128, 400)
    for k, label in enumerate(views.labels):
        colour = rows(views, "frames")[k].mean(axis=(1, 2)) * 255
        np.testing.assert_allclose(colour, COLOURS[label], atol=8)
    (root / "RAVDESS/Actor_02/03-01-03-01-01-02-02.wav").unlink()
    with pytest.raises(ValueError, match=r"clip '01-03-01-01-02-02': there is no file .*03-01-03"):
        ravdess(root, views="audio")
    assert len(ravdess(root, views="frames")) == 24
    with pytest.raises(ValueError, match=r"has no files Actor_XX/MM-01-EE"):
        (tmp_path / "empty/RAVDESS").mkdir(parents=True)
        ravdess(tmp_path / "empty")


def test_cremad_names_and_pointers(tmp_path: Path) -> None:
    root = make_cremad(tmp_path)
    views = cremad(root, views="audio", spectrogram=Spectrogram(seconds=1.0, hop=160))
    assert views.class_names == ("anger", "disgust", "fear", "happy", "neutral", "sad")
    assert len(views) == 9 and np.bincount(views.labels, minlength=6).tolist() == [3, 0, 0, 3, 0, 3]
    row = by_id(views)["1001_DFA_ANG_X"]
    assert views.groups is not None and views.groups[row] == "cremad/1001"
    assert rows(views, "audio").shape == (9, 1, 128, 100)
    pointer = root / "CREMA-D/AudioWAV/1002_DFA_SAD_XX.wav"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    with pytest.raises(
        ValueError, match=r"1002_DFA_SAD_XX\.wav is a Git LFS pointer.*git lfs pull"
    ):
        cremad(root, views="audio")
    pointer.rename(pointer.with_name("1002_DFA_JOY_XX.wav"))
    with pytest.raises(ValueError, match="emotion of 1002_DFA_JOY_XX must be one of ANG, DIS"):
        cremad(root)


def test_vggsound_skips_what_is_gone(tmp_path: Path) -> None:
    root = make_vggsound(tmp_path)
    views = data.load("vggsound", root)
    assert isinstance(views, data.Views) and views.test is not None and views.validation is None
    row = by_id(views)
    # The training clip of a video in the test split is dropped, as is the one that is not there.
    assert set(row) == {"id_-1_000040", "id2_000012", "id3_000000", "id4_000007", "id5_000007"}
    assert {name for name in row if views.test[row[name]]} == {"id_-1_000040", "id4_000007"}
    assert views.class_names == ("bird chirping, tweeting", "dog barking", "violin")
    (root / "VGGSound/classes.txt").write_text("dog barking\nbird chirping, tweeting\n\n")
    few = data.load("vggsound", root, views=["frames"])
    assert few.class_names == ("dog barking", "bird chirping, tweeting") and len(few) == 4
    (root / "VGGSound/classes.txt").write_text("dog barking\ncat\n")
    with pytest.raises(ValueError, match=r"classes\.txt must name classes.*'cat' is none"):
        data.load("vggsound", root)
    (root / "VGGSound/classes.txt").unlink()
    (root / "VGGSound/vggsound.csv").write_text("id2,12,dog barking,train\nid3,0,dog,valid\n")
    with pytest.raises(ValueError, match=r"vggsound\.csv, line 2: 'youtube id,start"):
        data.load("vggsound", root)
    (root / "VGGSound/vggsound.csv").write_text("other,12,dog barking,train\n")
    with pytest.raises(ValueError, match=r"none of the 1 clips.*video/other_000012\.mp4"):
        data.load("vggsound", root)


@pytest.mark.parametrize("suffix", [".mp4", ".flv"])
def test_films_give_sound_and_the_picture_of_the_event(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("av")
    from ucmkd.data.audiovisual.audio import read_audio
    from ucmkd.data.audiovisual.frames import read_frame

    sound = np.concatenate([tone(pitch, 1, 16000) for pitch in PITCHES])
    path = write_film(tmp_path / f"film{suffix}", list(COLOURS), sound)
    for start, colour in enumerate(COLOURS):
        picture = Picture(16)(read_frame(path, start, start + 1))
        np.testing.assert_allclose(picture.mean(axis=(1, 2)), colour, atol=25)
    np.testing.assert_allclose(Picture(16)(read_frame(path)).mean(axis=(1, 2)), COLOURS[2], atol=25)
    for start, pitch in enumerate(PITCHES):
        part = read_audio(path, start + 0.25, start + 0.75)
        loudest = np.abs(np.fft.rfft(part)).argmax() * 16000 / len(part)
        assert abs(loudest - pitch) < 6
    (tmp_path / f"cut{suffix}").write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"cut\{suffix} "):
        read_frame(tmp_path / f"cut{suffix}")


def test_a_film_is_enough_for_both_views(tmp_path: Path) -> None:
    pytest.importorskip("av")
    folder = tmp_path / "RAVDESS/Actor_01"
    for emotion in (1, 2):
        film = folder / f"01-01-0{emotion}-01-01-01-01.mp4"
        write_film(film, [COLOURS[emotion - 1]], tone(PITCHES[emotion - 1], 1, 16000))
    views = ravdess(tmp_path)
    assert len(views) == 2
    loud = rows(views, "audio")[:, 0].mean(axis=2).argmax(axis=1)  # the loudest mel band
    assert loud[0] < loud[1]


def test_without_the_extra_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    folder = tmp_path / "RAVDESS/Actor_01"
    folder.mkdir(parents=True)
    (folder / "01-01-01-01-01-01-01.mp4").write_bytes(b"x" * 100)
    with pytest.raises(ImportError, match=r"\.mp4 files needs the package 'av'.*ucmkd\[audiovis"):
        ravdess(tmp_path, views="frames")


def test_wave_files_of_many_kinds(tmp_path: Path) -> None:
    from ucmkd.data.audiovisual.audio import read_audio

    for rate, channels in ((16000, 1), (48000, 2), (44100, 1), (8000, 2)):
        samples = read_audio(write_wave(tmp_path / "a.wav", tone(440, 1, rate), rate, channels))
        assert samples.dtype == np.float32 and len(samples) == 16000
        middle = slice(2000, 14000)  # away from the edges of the resampling filter
        np.testing.assert_allclose(samples[middle], tone(440, 1, 16000)[middle], atol=3e-3)
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"b\.wav is cut short"):
        read_audio(tmp_path / "b.wav")
    (tmp_path / "c.wav").touch()
    with pytest.raises(ValueError, match=r"c\.wav is empty"):
        read_audio(tmp_path / "c.wav")


def test_spectrogram_finds_the_pitch_and_repeats_short_sounds() -> None:
    kind = Spectrogram(seconds=2.0, hop=160, n_mels=40)
    assert kind.shape == (1, 40, 200)
    short, long = kind(tone(1000, 0.5, 16000)), kind(tone(1000, 5, 16000))
    assert short.shape == long.shape == kind.shape
    # Band centres lie at 2840 (i + 1) / 41 mel; 1000 Hz are 1000 mel, so band 13 (970 mel).
    assert set(short[0].argmax(axis=0)) == set(long[0].argmax(axis=0)) == {13}
    assert short.max() == 0 and short.min() >= -80
    with pytest.raises(ValueError, match="less than one hop"):
        Spectrogram(seconds=0.001, hop=160)
    with pytest.raises(ValueError, match="n_mels must be positive"):
        Spectrogram(seconds=1, hop=160, n_mels=0)


def test_picture_is_the_centred_square() -> None:
    from PIL import Image

    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = (10, 20, 30)
    picture = Picture(4)(Image.fromarray(wide))
    assert picture.shape == (3, 4, 4) and picture.dtype == np.uint8
    assert [set(channel.ravel().tolist()) for channel in picture] == [{10}, {20}, {30}]
