"""Clips with sound and picture: AVE, RAVDESS, CREMA-D and VGGSound in their published layouts.

Each adapter lists the clips of a data set, with labels, groups and official splits; `views` reads
them once into a cache of fixed-size arrays. Needs the extra `audiovisual`.
"""

from ucmkd.data.audiovisual.audio import Spectrogram
from ucmkd.data.audiovisual.ave import ave
from ucmkd.data.audiovisual.clips import VIEWS, Clip
from ucmkd.data.audiovisual.cremad import cremad
from ucmkd.data.audiovisual.frames import Picture
from ucmkd.data.audiovisual.ravdess import ravdess
from ucmkd.data.audiovisual.vggsound import vggsound

__all__ = ["VIEWS", "Clip", "Picture", "Spectrogram", "ave", "cremad", "ravdess", "vggsound"]
