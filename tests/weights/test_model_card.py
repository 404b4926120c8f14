import pytest

from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.weights import model_card
from tests.helpers import load_config


@pytest.mark.parametrize(("name", "semantic"), [("demo", True), ("streets_instances", False)])
def test_a_card_lists_the_keys_that_its_task_reads(name, semantic, tmp_path):
    text = model_card.text(RunFolder(tmp_path), load_config(name), ("thing",), "mine", None, False)
    for key in ("loss.name", "model.flavour", "data.crop"):
        assert (f"| `{key}` |" in text) == semantic, key
    assert "| `model.context` |" in text
