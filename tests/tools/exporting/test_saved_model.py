import pytest

from ccnet_jax.tools.exporting import saved_model
from ccnet_jax.tools.exporting.formats import Disagrees
from ccnet_jax.tools.exporting.program import ImageShape
from tests.tools.exporting.programs import SMALL, small_program

pytest.importorskip("tensorflow", reason="SavedModels need TensorFlow, which no list of requirements has")
pytestmark = pytest.mark.usefixtures("without_shape_checks")  # they know no open sides


def test_tensorflow_runs_the_folder_or_it_is_refused(tmp_path):
    """TensorFlow 2.21 reads the programs of JAX 0.10, and not those of JAX 0.12."""
    program = small_program(ImageShape())
    saved_model.write(program, tmp_path / "a")
    try:
        assert len(list(saved_model.compare(program, tmp_path / "a"))) == 3
    except Disagrees as refusal:
        assert "cannot run a program of JAX" in str(refusal)  # noqa: PT017
        pytest.skip(str(refusal))


def test_a_folder_of_other_weights_is_found(tmp_path):
    saved_model.write(small_program(SMALL, seed=1), tmp_path / "a")
    with pytest.raises(Disagrees, match="the folder is not kept"):
        list(saved_model.compare(small_program(SMALL), tmp_path / "a"))
