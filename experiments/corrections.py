"""What was wrong in the code that measured some of the results, until they are measured again."""

from typing import NamedTuple


class Correction(NamedTuple):
    """A mistake that was corrected.

    Attributes:
      date: when, as results have it.
      results: names of result files, without folder and ".json", whose numbers the mistake changes.
      was: what the older ones were measured with, as the end of a message that begins "Measured with".
    """

    date: str
    results: tuple[str, ...]
    was: str


CORRECTIONS = (
    Correction(
        "2026-11-30T16:48:00+00:00",
        ("streets_context", "streets_instances", "camvid"),
        "a max pool that lost the gradient of some windows in compiled programs",
    ),
    Correction(
        "2026-11-30T16:57:00+00:00",
        ("camvid",),
        "a loss that was divided by the labelled pixels, where the recipe divides by all, as mmsegmentation",
    ),
)


def remarks(name: str, date: str) -> list[str]:
    """A message for each correction that came after a result.

    Args:
      name: of the result, FILE or FOLDER/FILE.
      date: when it was measured, in ISO 8601 with UTC.
    """
    file = name.rpartition("/")[2]
    return [
        f"Measured with {correction.was}: to be measured again."
        for correction in CORRECTIONS
        if file in correction.results and date < correction.date
    ]
