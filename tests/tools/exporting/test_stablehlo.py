import numpy as np
import pytest
from jax import export

from ccnet_jax.tools.exporting import stablehlo
from ccnet_jax.tools.exporting.formats import Disagrees
from tests.helpers import fresh_python
from tests.tools.exporting.programs import SMALL, small_program

# shape checks know no open sides
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_shape_checks")]


EVERY_BIT = """if True:
    import pathlib
    import jax
    from ccnet_jax.tools.exporting import stablehlo
    from ccnet_jax.tools.exporting.program import ImageShape
    from tests.tools.exporting.programs import small_program
    jax.config.update("jax_disable_most_optimizations", True)
    program, path = small_program(ImageShape(), flavour="official", dtype="bfloat16"), pathlib.Path("{path}")
    stablehlo.write(program, path)
    print(*stablehlo.compare(program, path), sep="\\n")
"""


def test_of_images_of_any_size_every_bit_is_the_jitted_models(tmp_path):
    """By XLA's own choice of emitters: by the older ones, sums of open sides have another order."""
    lines = fresh_python("-c", EVERY_BIT.format(path=tmp_path / "a")).splitlines()
    assert [line.split(":")[0] for line in lines] == ["[1, 33, 49, 3]", "[2, 65, 47, 3]", "[1, 51, 97, 3]"]
    loaded = export.deserialize(bytearray((tmp_path / "a").read_bytes()))
    assert loaded.platforms == ("cpu", "cuda")
    assert "custom_call" not in loaded.mlir_module().replace("stablehlo.custom_call @shape_assertion", "")
    with pytest.raises(ValueError, match="refining shapes"):
        loaded.call(np.zeros((1, 31, 64, 3), np.uint8))


def test_a_file_of_other_weights_is_found(tmp_path):
    stablehlo.write(small_program(seed=1), tmp_path / "a")
    with pytest.raises(Disagrees, match=r"of images \[1, 33, 49, 3\] are not those of the jitted model"):
        list(stablehlo.compare(small_program(SMALL), tmp_path / "a"))
