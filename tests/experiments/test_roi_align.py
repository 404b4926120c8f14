import jax
import numpy as np

from experiments import roi_align


def test_all_forms_give_the_same_features_and_gradients(monkeypatch):
    monkeypatch.setattr(roi_align, "CHANNELS", 4)
    values = roi_align.arguments(2, 64, 96, 5)
    found = {
        name: jax.jit(roi_align.gradient_of(function))(*values)
        for name, function in roi_align.IMPLEMENTATIONS.items()
    }
    features = found["sixteen pixels"][0]
    assert features.shape == (2, 5, 7, 7, 4)
    for result in found.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), result, found["one gather"])


def test_every_form_has_a_line():
    row = {"name": "matrices", "seconds": [0.2, 0.1, 0.3], "temporary_bytes": 5e6}
    assert "| matrices | 200 | 5 |" in roi_align.tables({"rows": [row]})["forms"]
