"""What is shipped: sdist -> wheel -> installed package, used outside the source tree."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of the source tree, and the wheel built from that sdist alone."""
    if not (ROOT / "rust").is_dir():
        pytest.skip("not a source tree")
    folder = tmp_path_factory.mktemp("package")
    maturin = [sys.executable, "-m", "maturin"]
    run(*maturin, "sdist", "--out", str(folder), cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        # Our own archive; early patch releases of 3.10 and 3.11 know no filter.
        how = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder / "source", **how)
    (source,) = (folder / "source").iterdir()
    # The compiled dependencies are shared with the development build: minutes saved.
    run(
        *maturin, "build", "--release", "--locked", "--out", str(folder),
        "--target-dir", str(ROOT / "target"), cwd=source,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def test_wheel_holds_what_it_should(built: tuple[Path, Path]) -> None:
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "abi3" in wheel.name
    package = {name for name in names if name.startswith("ucmkd/")}
    extra = {n for n in names - package if not n.split("/")[0].endswith((".dist-info", ".libs"))}
    assert not extra, f"top-level names that do not belong: {extra}"
    source = {
        str(path.relative_to(ROOT / "python")).replace("\\", "/")
        for path in (ROOT / "python" / "ucmkd").rglob("*")
        if path.is_file()
        and path.suffix in (".py", ".pyi", ".yaml", ".typed", "")
        and "__pycache__" not in path.parts
    }
    kernels = {f"ucmkd/kernels/{path.name}" for path in (ROOT / "kernels").glob("*.py")}
    assert kernels and kernels <= package
    missing = source - package
    assert not missing, f"not shipped: {sorted(missing)}"
    assert any(n.startswith("ucmkd/_rust") and n.endswith((".so", ".pyd")) for n in package)
    assert {"ucmkd/py.typed", "ucmkd/_rust.pyi"} <= package
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any("__pycache__" in name or name.startswith("tests") for name in names)


def test_sdist_holds_the_sources(built: tuple[Path, Path]) -> None:
    sdist, _ = built
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "Cargo.lock", "rust/Cargo.toml", "LICENSE", "README.md"} <= names
    assert any(name.startswith("kernels/") for name in names)


def test_wheel_works_outside_the_source_tree(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Installed without dependencies into a bare folder; torch comes from this environment."""
    _, wheel = built
    target = tmp_path / "installed"
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
        "--target", str(target), str(wheel), cwd=tmp_path,
    )  # fmt: skip
    program = f"""
import sys
sys.path.insert(0, {str(target)!r})
import importlib.metadata, importlib.util, pathlib
import torch, ucmkd
here = pathlib.Path(ucmkd.__file__)
assert pathlib.Path({str(target)!r}) in here.parents, here
assert importlib.util.find_spec("ucmkd.kernels.softmin").origin.startswith({str(target)!r})
assert ucmkd.backends()["rust"].available, ucmkd.backends()
x = torch.randn(20, 4, requires_grad=True)
loss = ucmkd.losses.sinkhorn_align(x, torch.randn(15, 4)) + ucmkd.losses.mmd_align(x, x * 2)
loss.backward()
assert torch.isfinite(x.grad).all()
print(ucmkd.__version__)
"""
    assert run(sys.executable, "-I", "-c", program, cwd=tmp_path).strip()


def test_version_is_one() -> None:
    """pyproject.toml and rust/Cargo.toml carry the same version."""
    found = [
        next(line.split('"')[1] for line in path.read_text().splitlines() if "version =" in line)
        for path in (ROOT / "pyproject.toml", ROOT / "rust" / "Cargo.toml")
    ]
    assert found[0] == found[1]
