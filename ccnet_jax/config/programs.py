"""The programs that the command `ccnet` starts."""

from ccnet_jax.common.kernels import PACKAGE as KERNELS

PROGRAMS = {  # {name: (module, meaning)}
    "demo": ("ccnet_jax.demo", "train a small network on the built-in scenes, and score it"),
    "train": ("ccnet_jax.train", "train a network"),
    "eval": ("ccnet_jax.eval", "score a trained network on a split"),
    "predict": ("ccnet_jax.predict", "label images with a trained network"),
    "explore": ("ccnet_jax.explore", "a page in the browser: images, classes, attention"),
    "convert": ("ccnet_jax.convert", "read PyTorch's weights, or write them"),
    "export": ("ccnet_jax.export", "write a trained network as a file that servers run"),
    "share": ("ccnet_jax.share", "make a folder of a trained network, or put it on the hub"),
    "cost": ("ccnet_jax.cost", "what a config costs on a GPU, without one"),
    "preview": ("ccnet_jax.preview", "look at a data set as training sees it"),
    "prepare": ("ccnet_jax.prepare", "make a data set a TFDS one, for fast storage and many hosts"),
    "completion": ("ccnet_jax.config.completion", "print what completes `ccnet` in a shell"),
    "bench": (f"{KERNELS}.bench.__main__", "measure the attention op's backends"),
    "tune": (f"{KERNELS}.bench.tune", "find the fastest block sizes of the GPU kernels"),
}
