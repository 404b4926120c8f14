"""How tests compile: fast, for they run most programs once or twice. Imports nothing that starts JAX."""

import importlib.metadata
import pathlib

CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"  # for the next test and the next run
SETTINGS = {
    "jax_disable_most_optimizations": True,
    "jax_include_full_tracebacks_in_locations": False,  # they take 5 % of the time
    "jax_compilation_cache_dir": str(CACHE),
    "jax_persistent_cache_min_compile_time_secs": 0.5,
}
# In the environment of a program that shall compile as the tests do. Several processes compile the same small
# programs, so that more of them are worth keeping.
_OF_PROCESSES = SETTINGS | {"jax_persistent_cache_min_compile_time_secs": 0.1}
COMPILING = {name.upper(): str(value) for name, value in _OF_PROCESSES.items()}
_OLDER_EMITTERS = importlib.metadata.version("jax").startswith("0.10.")
# For `jax.jit`: compiles as users do. A test of gradients needs it: XLA computes a value in each of the
# fusions that read it, and only with all optimizations does rounding differ from one to the other.
AS_USERS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
if _OLDER_EMITTERS:
    AS_USERS["xla_cpu_use_fusion_emitters"] = True


def xla_flags(devices: int) -> str:
    """XLA_FLAGS for as many CPU devices.

    In JAX 0.10 half of a compilation is the way from fusions to LLVM by MLIR; XLA still has the older way.
    A version that does not know a flag aborts, as JAX 0.12 would.
    """
    flags = [f"--xla_force_host_platform_device_count={devices}"]
    if _OLDER_EMITTERS:
        flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_emitter_verification_level=0"]
        flags += ["--xla_cpu_parallel_codegen_split_count=1"]  # each part costs; other cores have other tests
    return " ".join(flags)
