"""A contender of `experiments.model_speed` without any library.

    python -m tests.experiments.fake_contender

It notes each call in FOLDER/calls, and has no memory for a case of depth 101 while another contender runs.
"""

import numpy as np

from experiments.speed import worker
from experiments.speed.worker import Contender


def prepare(case, name, folder, request):
    if name == "torch.compile":
        raise RuntimeError("no compiler\nat all")
    running = folder / "running"
    others = running.read_text().split("\n")[:-1] if running.exists() else []
    with running.open("a") as file:
        file.write(f"{name}\n")

    def call():
        print("what a library prints is no answer")
        if name == "torch" and case.depth == 101 and others:
            running.unlink()  # all processes of the case end, and this one starts again
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        with (folder / "calls").open("a") as file:
            file.write(f"{name}\n")

    def logits():
        return np.full((2, 3, 4), 2.0 if name == "jax" else 2.5, np.float32)

    training = case.task == "training"
    return Contender(
        call,
        lambda result: None,
        lambda: 7 * 10**9,
        loss=(lambda result: 3.0) if training else None,
        logits=None if training else logits,
    )


if __name__ == "__main__":
    worker.serve(prepare)
