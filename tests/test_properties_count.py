"""How many examples the properties are tried on."""

import test_properties_divergence
import test_properties_mmd
import test_properties_sinkhorn
from property_testing import BACKENDS, PLANNED, PROFILES


def test_number_of_examples() -> None:
    """2,000 in each run, 100,000 at night; a property that runs fewer than its share fails."""
    modules = (test_properties_sinkhorn, test_properties_divergence, test_properties_mmd)
    for module in modules:
        mine = [name for name in PLANNED if name.startswith(module.__name__ + ".")]
        tests = [name for name in vars(module) if name.startswith("test_")]
        assert len(mine) == len(tests), "a test of this file is not a counted property"
    total = sum(PLANNED.values())
    assert total >= 2_000 and total % len(BACKENDS) == 0
    assert total * PROFILES["nightly"] >= 100_000
