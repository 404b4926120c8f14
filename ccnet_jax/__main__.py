"""`python -m ccnet_jax`: lists the programs."""

from ccnet_jax import command_line

PROGRAMS = {
    "ccnet_jax.train": "train a network",
    "ccnet_jax.eval": "score a trained network on a split",
    "ccnet_jax.predict": "label pictures with a trained network",
    "ccnet_jax.convert": "read PyTorch's weights, or write them",
    "ccnet_jax.export": "write a trained network as a file that servers run",
    "ccnet_jax.cost": "what a config costs on a GPU, without one",
    "ccnet_jax.data.preview": "look at a data set as training sees it",
    "ccnet_jax.data.prepare": "make a data set a TFDS one, for fast storage and many hosts",
    "kernels.criss_cross.bench": "measure the attention op's backends",
    "kernels.criss_cross.tune": "find the fastest block sizes of the GPU kernels",
}


def main() -> None:
    """The program."""
    lines = [f"  python -m {name:26} {meaning}" for name, meaning in PROGRAMS.items()]
    text = "\n".join(["CCNet in JAX. The programs, each of which answers --help:", "", *lines])
    parser = command_line.Parser("ccnet_jax", text)
    parser.add_argument("program", nargs="?", help="a program's name, for how to start it")
    program = parser.parsed().program
    if program is not None:
        known = {name.rpartition(".")[2]: name for name in PROGRAMS}
        parser.error(f"start it as python -m {known.get(program, 'ccnet_jax.PROGRAM')}")
    print(text)


if __name__ == "__main__":
    command_line.run(main)
