"""The completion script: what bash offers at a place of the command line."""

import shutil
import subprocess

import pytest

from ucmkd.cli import COMMANDS, USAGE, main
from ucmkd.cli_completion import keys, script
from ucmkd.config import Recipe
from ucmkd.methods import METHODS
from ucmkd.recipe_file import shipped_recipes

BASH = shutil.which("bash")


def offered(*words: str) -> list[str]:
    listed = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _ucmkd"
    program = f'{script("bash")}\n{asked}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    assert BASH is not None
    done = subprocess.run([BASH, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_what_is_offered(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert set(COMMANDS) <= set(offered("ucmkd", ""))
    assert "distill" in offered("ucmkd", "dis") and "demo" not in offered("ucmkd", "dis")
    assert set(shipped_recipes()) <= set(offered("ucmkd", "distill", ""))
    assert offered("ucmkd", "distill", "mi") == ["mismatch_hard", "mismatch_mild",
                                                 "mismatch_moderate", "mine.yaml"]  # fmt: skip
    assert "cohorts" in offered("ucmkd", "compare", "co")
    assert offered("ucmkd", "distill", "brca", "--optimizer.l") == ["--optimizer.lr"]
    assert "--out-dir" in offered("ucmkd", "distill", "brca", "--o")
    assert set(offered("ucmkd", "distill", "brca", "--method.name", "")) >= set(METHODS)
    assert "--only-method" in offered("ucmkd", "compare", "quick", "--only")


def test_every_key_is_a_key() -> None:
    found = keys(Recipe)
    assert {"seed", "data.teacher.dataset", "optimizer.lr", "training.batch_size"} <= set(found)
    assert "data" not in found and len(found) == len(set(found))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    for words in (["completion"], ["completion", "fish"]):
        assert main(words) == 2
    assert "bash or zsh, got 'fish'" in capsys.readouterr().err
    assert all(f"\n  {name} " in USAGE for name in COMMANDS)
