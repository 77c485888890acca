"""Each example runs: the alignment falls, and the student is not worse than without it."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = Path(__file__).resolve().parents[1] / "examples"
#: Script, and the package that it shows; None: nothing beyond the extra ``train``.
SCRIPTS = {
    "plain_loop": None,
    "lightning_trainer": "lightning",
    "accelerate_loop": "accelerate",
    "transformers_trainer": "transformers",
    "torchdistill_loss": "torchdistill",
    "metric_learning": "pytorch_metric_learning",
    "sklearn_classifier": None,
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in ("problem", *SCRIPTS):
        sys.modules.pop(name, None)


def test_every_example_is_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {"problem", *SCRIPTS}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(SCRIPTS))
def test_example(name: str) -> None:
    package = SCRIPTS[name]
    if package is not None:
        pytest.importorskip(package, reason=f"{package} is not installed", exc_type=ImportError)
    script = importlib.import_module(name)
    found = script.main() if hasattr(script, "main") else script.compare(script.train)
    assert found["last"] < 0.5 * found["first"]
    assert found["taught"] >= found["alone"]
