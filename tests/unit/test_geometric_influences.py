"""From dense weights to a few influences a vertex."""

import numpy as np

from services.inference.geometric.influences import strongest_influences


def test_the_strongest_are_kept_and_share_the_whole() -> None:
    skin = strongest_influences(np.array([[0.1, 0.3, 0.05, 0.4, 0.15]]), 3)
    assert skin.joints.tolist() == [[3, 1, 4]]
    np.testing.assert_allclose(skin.weights.sum(axis=1), 1.0, rtol=1e-6)


def test_a_weak_influence_fades_without_a_jump() -> None:
    weak = np.linspace(0.0, 0.3, 301)
    skin = strongest_influences(np.stack([1.0 - weak, weak], axis=1), 4)
    second = skin.weights[:, 1]
    assert second[10] == 0.0
    assert (np.diff(second) >= 0.0).all()
    assert np.diff(second).max() < 0.004
    np.testing.assert_allclose(second[150:], weak[150:], atol=1e-6)
