"""A change of what the chart makes is seen and reviewed, manifest by manifest."""

import pytest

from tests.chart.golden import REVIEWED, difference


@pytest.mark.parametrize("combination", REVIEWED, indirect=False)
def test_the_manifests_are_those_that_were_reviewed(combination: str) -> None:
    diff = difference(combination)
    assert not diff, f"review this, then accept it with make golden:\n{diff}"
