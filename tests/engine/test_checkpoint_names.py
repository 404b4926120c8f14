"""Names of arrays that lead out of a checkpoint's folder."""

import json

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.engine import checkpoints
from ccnet_jax.engine.checkpoint_names import check_names


@pytest.fixture
def folder(tmp_path):
    """A checkpoint whose arrays are files of their own, and beside it an array that is none of its own."""
    for name in ("mine", "other"):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
            checkpointer.save(tmp_path / name / "variables", {"params": {name: jnp.ones(3)}})
    return tmp_path / "mine"


@pytest.mark.parametrize("absolute", [True, False])
def test_an_array_of_another_folder_is_not_read(folder, absolute):
    assert checkpoints.load_arrays(folder)["params"]["mine"].tolist() == [1, 1, 1]
    path = folder / "variables" / "_METADATA"
    values = json.loads(path.read_text())
    (entry,) = values["tree_metadata"].values()
    other = f"{folder.parent}/other" if absolute else "../../other"
    entry["key_metadata"][-1]["key"] = f"{other}/variables/params.other"
    path.write_text(json.dumps(values))
    with pytest.raises(
        UserError, match=r"_METADATA names the array '.*params.other', outside its folder; take"
    ):
        checkpoints.load_arrays(folder)


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '{"tree_metadata": 3}', "[" * 100_000])
def test_a_list_of_arrays_that_is_none_is_one_message(tmp_path, text):
    check_names(tmp_path)  # without a list Orbax says what is missing
    (tmp_path / "_METADATA").write_text(text)
    with pytest.raises(UserError, match="_METADATA (lists no arrays|cannot be read as JSON).*take another"):
        check_names(tmp_path)
