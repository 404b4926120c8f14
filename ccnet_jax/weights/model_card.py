"""The page that goes with a shared network: what its run recorded, and nothing else."""

import json
from collections.abc import Iterator
from typing import Any

from ccnet_jax.common.errors import UserError, read_json
from ccnet_jax.config import config as configuration
from ccnet_jax.config.config import Config
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.metric_log import read_log

EXAMPLE = "example.png"
# What a reader of the card asks first; the rest is in config.json.
_RECIPE = (
    *("data.name", "data.train_split", "data.crop", "batch_size", "steps", "dtype", "seed"),
    *("model.backbone", "model.depth", "model.width", "model.flavour", "model.context", "model.loops"),
    *("optimizer.name", "optimizer.learning_rate", "optimizer.schedule", "optimizer.weight_decay"),
    "loss.name",
)


def text(
    run: RunFolder, config: Config, classes: tuple[str, ...], title: str, step: int | None, with_example: bool
) -> str:
    """The card, Markdown with the hub's header.

    Args:
      run: the folder that the network comes from.
      config: of the run.
      classes: names of the classes.
      title: what the network is called.
      step: number of steps behind the weights, None where that is not known.
      with_example: whether `EXAMPLE` lies beside the card.
    """
    header = [
        "---",
        "license: unknown",
        "library_name: ccnet_jax",
        "pipeline_tag: image-segmentation",
        "tags:",
    ]
    header += [f"- {tag}" for tag in ("ccnet", "jax", "flax", f"{config.task}-segmentation")]
    lines = [*header, "---", "", f"# {title}", ""]
    lines += [
        f"A network for {config.task} segmentation with {len(classes)} classes, made with ccnet_jax: "
        f"{', '.join(classes[:30])}{' ...' if len(classes) > 30 else ''}.",
        "",
        "```python",
        "import ccnet_jax",
        "",
        f"model = ccnet_jax.load({title!r})",
        'prediction = model.predict("street.jpg")',
        "```",
        "",
    ]
    if with_example:
        lines += [f"![an example]({EXAMPLE})", ""]
    lines += ["## How it was made", "", "| | |", "|---|---|"]
    values = configuration.flat(configuration.to_dict(config))
    recipe = [name for name in _RECIPE if configuration.is_read_by(config.task, name)]
    lines += [f"| `{name}` | {_cell(values[name])} |" for name in recipe]
    if step is not None:
        lines.append(f"| steps behind these weights | {step:,} |")
    if config.pretrained:
        lines.append("| backbone | began with pretrained weights |")
    for start in _starts(run)[-1:]:
        lines.append(f"| device | {start.get('device')} |")
        lines.append(f"| commit of ccnet_jax | {start.get('commit')} (version {start.get('ccnet_jax')}) |")
        lines.append(f"| JAX | {start.get('versions', {}).get('jax')} |")
    lines += ["", "All keys are in `config.json`.", "", "## Scores", ""]
    scores = [*_scores(run), *_validation(run, config)]
    if scores:
        lines += ["| split | test mode | steps | images | scores |", "|---|---|---|---|---|", *scores]
    else:
        lines.append("None are recorded: `python -m ccnet_jax.eval` writes them into the run's folder.")
    lines += ["", "## Licence", ""]
    lines += ["The maker of these weights has not stated one here yet: `license:` above and this line.", ""]
    return "\n".join(lines)


def _scores(run: RunFolder) -> Iterator[str]:
    """A row for each evaluation that the run has."""
    for path in sorted(run.path.glob("eval-*.json")):
        try:
            found = read_json(path, "")
            named = {name: found[name] for name in ("mIoU", "mAcc", "pixel_accuracy") if name in found}
            named |= {f"{kind} AP": found[kind]["AP"] for kind in ("box", "mask") if kind in found}
            told = ", ".join(
                f"{name} {100 * score:.2f} %" for name, score in named.items() if score is not None
            )
            yield f"| {found['split']} | {found['mode']} | {found['step']} | {found['images']} | {told} |"
        except (UserError, KeyError, TypeError):
            continue  # written by another version, or by hand


def _validation(run: RunFolder, config: Config) -> Iterator[str]:
    """A row for the last validation in training."""
    prefix = f"{config.data.eval_split}/"
    validations = [line for line in read_log(run) if any(name.startswith(prefix) for name in line)]
    for line in validations[-1:]:
        told = ", ".join(
            f"{name.removeprefix(prefix)} {100 * value:.2f} %"
            for name, value in line.items()
            if name.startswith(prefix)
        )
        cells = (
            f"{config.data.eval_split}, in training",
            str(config.test_mode()),
            str(line["step"]),
            "all",
            told,
        )
        yield f"| {' | '.join(cells)} |"


def _starts(run: RunFolder) -> list[dict[str, Any]]:
    """What worked on the run; [] where nothing tells."""
    try:
        found = read_json(run.versions_file, "")
    except UserError:
        return []
    return [start for start in found if isinstance(start, dict)] if isinstance(found, list) else []


def _cell(value: Any) -> str:
    return json.dumps(value).replace("|", "\\|")
