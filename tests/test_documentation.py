"""The README and the documentation: their code runs, their commands and links exist."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from docs.tools import costs
from docs.tools.blocks import ROOT, Block, blocks, pages, run

from ucmkd.cli import USAGE
from ucmkd.config import Recipe, from_mapping
from ucmkd.methods import METHODS
from ucmkd.recipe_file import shipped_recipes

pytestmark = pytest.mark.usefixtures("one_thread")
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "study" / "README.md"]
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)#:\s]+)\)")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def having(*languages: str) -> list[Path]:
    return [page for page in [*pages(), *OTHERS] if blocks(page, *languages)]


def test_blocks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n\n  ```python\n  x = 1\n    # deeper\n  ```\n```yaml\na: 1\n```\n")
    assert blocks(page, "python") == [Block("python", "x = 1\n  # deeper\n", 3)]
    assert run(page, tmp_path)["x"] == 1
    page.write_text("\n```python\nx = 1\nfail\n```\n")
    with pytest.raises(NameError) as caught:
        run(page, tmp_path)
    assert caught.traceback[-1].lineno + 1 == 4  # the line of the page


@pytest.mark.parametrize("page", having("python"), ids=name_of)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    entered = dict(METHODS)
    try:
        run(page, tmp_path)
    finally:  # a page may show how a method is entered
        METHODS.clear()
        METHODS.update(entered)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    shown = {path for path in PICTURE.findall(page.read_text(encoding="utf-8")) if "/" not in path}
    assert drawn == shown  # the page shows what it draws


@pytest.mark.parametrize("page", having("yaml"), ids=name_of)
def test_recipes_are_recipes(page: Path) -> None:
    for block in blocks(page, "yaml"):
        recipe = from_mapping(Recipe, yaml.safe_load(block.text))
        assert recipe.method.name in METHODS


@pytest.mark.parametrize("page", having("console"), ids=name_of)
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = page.read_text(encoding="utf-8")
    for block in blocks(page, "console"):
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert {w for w in words[1:] if "=" not in w} <= targets, line
            elif words[:1] == ["ucmkd"]:
                assert_command(words[1:], text)
            elif words[:2] == ["python", "-m"]:
                assert find_spec(words[2].split(".")[0]), line
                parts = words[2].split(".")
                file = ROOT.joinpath(*parts)
                installed = words[2].startswith("pytest") or file.with_suffix(".py").is_file()
                package = (ROOT / "python").joinpath(*parts)
                assert (
                    installed
                    or file.is_dir()
                    or package.is_dir()
                    or (package.with_suffix(".py").is_file())
                ), line


def assert_command(words: list[str], text: str) -> None:
    commands = set(re.findall(r"^  (\w+) ", USAGE, re.M))
    assert words[0] in commands or words[0].startswith("-"), words
    if words[0] == "distill" and len(words) > 1 and not words[1].startswith("-"):
        known = words[1] in shipped_recipes() or words[1].endswith(".yaml") or words[1].isupper()
        assert known, f"{words[1]} is no recipe"
    for word in words:
        if word == "--method.name":
            assert words[words.index(word) + 1] in METHODS
        if word == "--methods":
            assert set(words[words.index(word) + 1].split(",")) <= set(METHODS)


@pytest.mark.parametrize("page", [*pages(), *OTHERS], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = [path for path in LINK.findall(text) if not (page.parent / path).exists()]
    assert not broken


def test_every_method_has_its_row() -> None:
    table = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in table.splitlines() if re.match(r"\| `\w+` \| ", line)]
    costs = {row[0].strip("| `"): row[5] for row in rows}
    assert sorted(costs) == sorted(METHODS)
    measured = (ROOT / "docs" / "method_costs.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert costs == {line.split(",")[0]: line.split(",")[2] for line in measured}


def test_docstrings_become_markdown() -> None:
    pytest.importorskip("griffe", reason="mkdocstrings is not installed")
    from docs.tools.rst import to_markdown

    text = "See :func:`ucmkd.ops.mmd`.\n\n.. math::\n    x^2\n    + y\n\nand :math:`z`"
    assert to_markdown(text) == "See `ucmkd.ops.mmd`.\n\n\n$$\nx^2\n+ y\n$$\n\nand $z$"
    table = "====  ====\n``a``  one\n       two\n====  ====\n"
    assert "| ``a`` | one two |" in to_markdown(table)


def test_it_builds(tmp_path: Path) -> None:
    """Strictly: a broken link, an unknown anchor or a missing page is an error."""
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    pytest.importorskip("mkdocstrings_handlers.python", reason="mkdocstrings is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = (tmp_path / "api" / "losses" / "index.html").read_text(encoding="utf-8")
    assert "sinkhorn_align" in losses and ":func:" not in losses and ".. math" not in losses
    assert (tmp_path / "study" / "cohorts" / "figures" / "mfeat_curves.png").is_file()


def test_the_costs_are_measured_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--help`` and a mistake measure nothing and leave the table alone."""
    before = costs.TABLE.read_bytes()
    for words, status in ((["--help"], 0), (["--round"], 2), (["--rounds", "0"], 2)):
        with pytest.raises(SystemExit) as ended:
            costs.main(words)
        assert ended.value.code == status
    said = capsys.readouterr()
    assert "method_costs.csv" in said.out and "--rounds must be at least 1, got 0" in said.err
    assert costs.TABLE.read_bytes() == before
