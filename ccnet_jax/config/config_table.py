"""Write the table of all config keys into the manual, between the two marks in docs/train.md.

    python -m ccnet_jax.config.config_table

The table is made from the settings' own descriptions. Run this after a change of a setting; `make format`
does. A test fails while the table is out of date.
"""

import pathlib

from ccnet_jax.common.errors import UserError, write_whole
from ccnet_jax.config import command_line
from ccnet_jax.config.config import key_table

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "train.md"  # only a checkout has it
BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


def with_table(page: str, table: str) -> str:
    """The page with the table between its marks. Raises UserError where a mark is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{PAGE} lacks the line {BEGIN} or, after it, {END}; restore both")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def flags() -> command_line.Parser:
    """The command line."""
    return command_line.Parser("ccnet_jax.config.config_table", __doc__)


def main() -> None:
    """The program."""
    flags().parse()
    if not PAGE.is_file():
        raise UserError(f"{PAGE} does not exist; run this in a checkout of the repository")
    old = PAGE.read_text()
    new = with_table(old, key_table())
    if new != old:
        write_whole(PAGE, new)
    print(f"{PAGE}: {'updated' if new != old else 'up to date'}")


if __name__ == "__main__":
    command_line.run(main)
