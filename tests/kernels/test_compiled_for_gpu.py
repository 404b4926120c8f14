import importlib.util
import json
import os
import subprocess
import sys

import pytest

from kernels import aot
from tests.helpers import ROOT

needs_compiler = pytest.mark.skipif(aot.unavailable() is not None, reason=str(aot.unavailable()))


def run(*command):
    """What a fresh Python prints: XLA reads its flags once, and here they are others than the tests'."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_compiler
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("gpu", aot.GPUS)
def test_kernels_assemble_without_spills_at_the_papers_sizes(gpu, dtype):
    sizes = ["8x97x97", "2x128x256"]
    if dtype == "bfloat16":
        sizes += ["16x64x64", "1x256x512"]
    report = json.loads(run("tests/kernels/compile_for_gpu.py", gpu, dtype, *sizes))
    for size in sizes:
        kernels = report[size]
        assert {"criss_cross_forward_columns", "criss_cross_forward_rows"} < set(kernels)
        assert any(name.startswith("criss_cross_backward") for name in kernels)
        for name, (registers, spilled) in kernels.items():
            assert 0 < registers <= 255, (size, name)
            assert spilled == 0, (size, name)
