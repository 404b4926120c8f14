"""The images of the data set that a run was validated on, where they are at hand."""

import dataclasses
from typing import Any

import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.config import records
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.tasks import run_data
from ccnet_jax.tools.page.uploads import Gone

MOST = 24  # images that the page offers


class OwnImages:
    """The first images of a split.

    Args:
      source: the images of the split, as `TASKS[...].open` gives them; None where there are none.
      missing: a message on why there are none.
    """

    def __init__(self, source: Any = None, missing: str = ""):
        self._source, self.missing = source, missing
        count = 0 if source is None else min(len(source), MOST)
        self.names = [source.name(i) for i in range(count)]

    @classmethod
    def of_run(cls, folder: str, data_dir: str | None = None) -> "OwnImages":
        """Those of a run's `data.eval_split`; none, with the reason, where they are not at hand.

        Args:
          folder: of the run.
          data_dir: where the data lie now; None where the config says.

        Raises:
          UserError: `data_dir` is given, and does not hold them, or has other classes than the run.
        """
        try:
            run = RunFolder.at(folder)
            config = records.load_config(run)
            if data_dir is not None:
                config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=data_dir))
            return cls(run_data.open_images(config, config.data.eval_split, records.load_classes(run), run))
        except UserError as error:
            message = str(error).replace("--config.data.dir", "--data-dir")
            if data_dir is not None:
                raise UserError(message) from None
            return cls(missing=message)

    def pixels(self, index: int) -> np.ndarray:
        """An image, uint8 [H, W, 3] RGB. Raises UserError where there is no such, or it is corrupt."""
        if not 0 <= index < len(self.names):
            raise Gone(f"there is no image number {index} of the run's own; reload the page")
        return self._source[index]["image"]
