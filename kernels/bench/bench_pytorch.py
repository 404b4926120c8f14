"""PyTorch's side of `bench`: the same op in its einsums, eager and compiled."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .bench_cases import Prepared
from .measure import Program, first_line

NAMES = ("torch", "torch.compile")


def attend_in_einsums(query: Any, key: Any, value: Any) -> Any:
    """`reference.attend` in PyTorch: the same einsums, softmax in float32."""
    import torch

    itself = torch.eye(query.shape[1], dtype=torch.bool, device=query.device)[None, :, None, :]
    energy_col = torch.einsum("bywd,biwd->bywi", query, key).float().masked_fill(itself, float("-inf"))
    energy_row = torch.einsum("byxd,byjd->byxj", query, key).float()
    maximum = torch.maximum(energy_col.amax(-1, keepdim=True), energy_row.amax(-1, keepdim=True)).detach()
    weight_col, weight_row = torch.exp(energy_col - maximum), torch.exp(energy_row - maximum)
    total = weight_col.sum(-1, keepdim=True) + weight_row.sum(-1, keepdim=True)
    weight_col, weight_row = (weight_col / total).to(value.dtype), (weight_row / total).to(value.dtype)
    return torch.einsum("bywi,biwc->bywc", weight_col, value) + torch.einsum(
        "byxj,byjc->byxc", weight_row, value
    )


def cuda_clock(batch: Callable[[], Any]) -> float:
    """Seconds between two events on the device."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    batch()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def prepare(name: str, direction: str, sets: list[tuple[jax.Array, ...]]) -> Prepared:
    """Memory is the most that PyTorch held during a call beyond what it held before."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.empty_cache()
    torch.compiler.reset()  # a shape must not be compiled as a variation of the last one
    attend = torch.compile(attend_in_einsums, dynamic=False) if name == "torch.compile" else attend_in_einsums

    def forward(query: Any, key: Any, value: Any) -> tuple[Any]:
        with torch.no_grad():
            return (attend(query, key, value),)

    def both(query: Any, key: Any, value: Any, d_out: Any) -> tuple[Any, ...]:
        out = attend(query, key, value)
        return out.detach(), *torch.autograd.grad(out, (query, key, value), d_out)

    call, inputs = (forward, 3) if direction == "forward" else (both, 4)
    sets = [tuple(tensor_of(x, differentiable=n < 3) for n, x in enumerate(s[:inputs])) for s in sets]
    results = tuple(x.float().cpu().numpy() for x in call(*sets[0]))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(*sets[0])
    torch.cuda.synchronize()
    memory = torch.cuda.max_memory_allocated() - before
    return Prepared(Program(call, sets, cuda_clock), memory, results)


def tensor_of(x: jax.Array, differentiable: bool) -> Any:
    """On the GPU, of the same numbers and dtype; through the host, as float32 holds bfloat16 exactly."""
    import torch

    tensor = torch.tensor(np.asarray(x, np.float32), device="cuda").to(getattr(torch, x.dtype.name))
    return tensor.requires_grad_(differentiable)


def unavailable() -> str | None:
    """Why PyTorch cannot be timed here, or None."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries is missing
        return f"cannot be imported ({first_line(error)})"
    return None if torch.cuda.is_available() else "sees no CUDA device"
