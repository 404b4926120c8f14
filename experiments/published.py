"""The numbers that others published, with their sources, and the tables of them in the manual.

Scores of configs stand in the configs' own `VARIANTS`. The rest stands here. Sources:

    PAPER   Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019
    MMSEG   the page of CCNet in mmsegmentation's model zoo (its models of v0.5)
"""

from typing import NamedTuple

from ccnet_jax.config import config_files
from experiments import markdown

PAPER = "Huang et al., ICCV 2019"
MMSEG = "mmsegmentation's model zoo, CCNet"
DATA_SETS = ("cityscapes", "ade20k", "voc12aug")  # the configs with published scores


class Cost(NamedTuple):
    """What a context module adds to the baseline, for an input of 769x769.

    Attributes:
      gflop: 10^9 floating-point operations; the paper counts a multiplication and an addition as two.
      megabytes: of memory.
    """

    gflop: float
    megabytes: int


# The paper's Table 3 (loops of RCCA) and Table 5 (Non-local).
COSTS = {
    "RCCA, R = 1": Cost(8.3, 53),
    "RCCA, R = 2": Cost(16.5, 127),
    "RCCA, R = 3": Cost(24.7, 208),
    "Non-local": Cost(108, 1411),
}


class Training(NamedTuple):
    """What mmsegmentation measured in training and testing one of its configs.

    Attributes:
      gigabytes: of GPU memory in training.
      images_per_second: in testing whole images of the data set.
    """

    gigabytes: float
    images_per_second: float


# MMSEG, columns "Mem (GB)" and "Inf time (fps)"; its other rows have "-" there.
MMSEG_COSTS = {
    "cityscapes:mmseg-r50-512x1024-40k": Training(6.0, 3.32),
    "cityscapes:mmseg-r101-512x1024-40k": Training(9.5, 2.31),
    "cityscapes:mmseg-r50-769x769-40k": Training(6.8, 1.43),
    "cityscapes:mmseg-r101-769x769-40k": Training(10.7, 1.01),
    "ade20k:mmseg-r50-512x512-80k": Training(8.8, 20.89),
    "ade20k:mmseg-r101-512x512-80k": Training(12.2, 14.11),
    "voc12aug:mmseg-r50-512x512-20k": Training(6.0, 20.45),
    "voc12aug:mmseg-r101-512x512-20k": Training(9.5, 13.64),
}

# MMSEG, column "Download": when the weights were made, and the first eight digits of the file's SHA-256.
_MMSEG_STAMPS = {
    "cityscapes:mmseg-r50-512x1024-40k": "20200616_142517-4123f401",
    "cityscapes:mmseg-r101-512x1024-40k": "20200616_142540-a3b84ba6",
    "cityscapes:mmseg-r50-769x769-40k": "20200616_145125-76d11884",
    "cityscapes:mmseg-r101-769x769-40k": "20200617_101428-4f57c8d0",
    "cityscapes:mmseg-r50-512x1024-80k": "20200617_010421-869a3423",
    "cityscapes:mmseg-r101-512x1024-80k": "20200617_203935-ffae8917",
    "cityscapes:mmseg-r50-769x769-80k": "20200617_010421-73eed8ca",
    "cityscapes:mmseg-r101-769x769-80k": "20200618_011502-ad3cd481",
    "ade20k:mmseg-r50-512x512-80k": "20200615_014848-aa37f61e",
    "ade20k:mmseg-r101-512x512-80k": "20200615_014848-1f4929a3",
    "ade20k:mmseg-r50-512x512-160k": "20200616_084435-7c97193b",
    "ade20k:mmseg-r101-512x512-160k": "20200616_000644-e849e007",
    "voc12aug:mmseg-r50-512x512-20k": "20200617_193212-fad81784",
    "voc12aug:mmseg-r101-512x512-20k": "20200617_193212-0007b61d",
    "voc12aug:mmseg-r50-512x512-40k": "20200613_232127-c2a15f02",
    "voc12aug:mmseg-r101-512x512-40k": "20200613_232127-c30da577",
}


def mmseg_file(config: str) -> str:
    """The name of the file with mmsegmentation's weights of a config."""
    data_set, _, variant = config.partition(":")
    _, depth, crop, steps = variant.split("-")
    return f"ccnet_{depth}-d8_{crop}_{steps}_{data_set}_{_MMSEG_STAMPS[config]}.pth"


MMSEG_FILES = {config: mmseg_file(config) for config in _MMSEG_STAMPS}

R101, R50 = "R101", "R50"
# The paper's tables: (table and row, config, what to add to the command, mIoU in percent).
PAPER_ROWS = (
    ("Table 1, val, several scales", R101, "evaluate with `--ms-flip`", "81.3"),
    ("Table 2, test server", R101, "`--config.data.train_split=train+val`", "81.4"),
    ("Table 3, baseline", R101, "`--config.model.context=none`", "75.1"),
    ("Table 3, R = 1", R101, "`--config.model.loops=1`", "78.0"),
    ("Table 3, R = 2", R101, "", "79.8"),
    ("Table 3, R = 3", R101, "`--config.model.loops=3`", "80.2"),
    ("Table 4, baseline", f"{R50} / {R101}", "`--config.model.context=none`", "73.3 / 75.1"),
    ("Table 4, PSP", f"{R50} / {R101}", "`--config.model.context=psp`", "76.4 / 78.5"),
    ("Table 4, ASPP", f"{R50} / {R101}", "`--config.model.context=aspp`", "77.1 / 78.9"),
    ("Table 4, Non-local", R50, "`--config.model.context=nonlocal`", "77.3"),
    ("Table 4, RCCA (R = 2)", f"{R50} / {R101}", "", "78.5 / 79.8"),
    ("Table 6, ADE20K val", "`--config ade20k`", "", "45.22"),
)


def published_scores() -> dict[str, tuple[float | None, float | None]]:
    """{config: mIoU on val, and with several scales and mirror images, in percent}, from their `VARIANTS`."""
    return {
        f"{name}:{variant}": row[-2:]
        for name in DATA_SETS
        for variant, row in config_files.variants(config_files.folder() / f"{name}.py").items()
    }


def scores_table(configs: list[str]) -> str:
    """The published scores of configs, and what mmsegmentation says that they cost."""
    scores, rows = published_scores(), []
    for name in configs:
        numbers = [*scores[name], *MMSEG_COSTS.get(name, (None, None))]
        rows.append([f"`{name}`", *("-" if x is None else f"{x:g}" for x in numbers)])
    header = ["`--config`", "mIoU", "ms + flip", "GB in training", "images/s in testing"]
    sources = f"*Published: {PAPER}, for rows named `official-...`; {MMSEG}, for rows named `mmseg-...`.*"
    return markdown.table(header, rows) + f"\n\n{sources}"


def files_table() -> str:
    """The files of mmsegmentation's weights, their configs, and the scores that they should reach."""
    scores = published_scores()
    rows = [
        [f"`{file}`", f"`{config}`", *("-" if x is None else f"{x:g}" for x in scores[config])]
        for config, file in MMSEG_FILES.items()
    ]
    return markdown.table(["file", "`--config`", "mIoU", "ms + flip"], rows) + f"\n\n*Published: {MMSEG}.*"


def tables() -> dict[str, str]:
    """{name: Markdown} of every table of published numbers, its source below it."""
    costs = [[name, f"{cost.gflop:g}", str(cost.megabytes)] for name, cost in COSTS.items()]
    found = {
        "files": files_table(),
        "paper": markdown.table(["the paper's", "config", "add", "published"], PAPER_ROWS)
        + f"\n\n*Published: {PAPER}.*",
        "costs": markdown.table(["module", "GFLOPs", "memory (MB)"], costs)
        + f"\n\n*Published: {PAPER}, Tables 3 and 5.*",
    }
    for name in DATA_SETS:
        found[name] = scores_table([x for x in published_scores() if x.startswith(f"{name}:")])
    return found
