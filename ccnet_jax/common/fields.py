"""Settings: the fields of the frozen dataclasses that make up a config, and what each of them may hold.

A room describes its settings in a dataclass of its own:

    @dataclasses.dataclass(frozen=True)
    class LossConfig:
        auxiliary_weight: float = setting(0.4, "weight of the auxiliary head's loss", at_least=0)

`ccnet_jax.config.config` puts the dataclasses together and makes everything else from them.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_REQUIRED = object()
LARGEST_WHOLE = 2**31 - 1  # of a setting or a flag that has no smaller bound: devices count in 32 bits
LARGEST = 1e30  # of another number: float32 holds it
MOST_IMAGES = 2**16  # of a batch


@dataclasses.dataclass(frozen=True)
class Setting:
    """What one field of a config means and may hold.

    Attributes:
      meaning: one line, with the unit.
      choices: the allowed values, or a function that returns them; None allows all of the field's type.
      at_least, above, at_most, below: bounds of the number, or of each number in a tuple.
      sides: what the numbers of a tuple are, for example "(height, width)".
      separator: what stands between the numbers of a tuple on the command line, beside a comma.
      resumable: whether a run may go on with another value: it does not change what the weights mean.
      local: whether the allowed values depend on what is installed here. A run that was made elsewhere may
        hold another value.
      before: what runs did before the key existed; a config without the key has this value.
    """

    meaning: str
    choices: Iterable[Any] | Callable[[], Iterable[Any]] | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    sides: str | None = None
    separator: str = ","
    resumable: bool = False
    local: bool = False
    before: Any = _REQUIRED

    @property
    def is_required(self) -> bool:
        """Whether every config has had this key since the first version."""
        return self.before is _REQUIRED

    def allowed_values(self) -> list[Any]:
        """The allowed values; empty where all of the type are."""
        choices = self.choices() if callable(self.choices) else self.choices
        return list(choices or ())


def setting(default: Any, meaning: str, **details: Any) -> Any:
    """A dataclass field with a default and a `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(meaning, **details)})


@dataclasses.dataclass(frozen=True)
class Key:
    """A setting with its place in the config: its dotted name, its type and its default."""

    name: str
    hint: Any
    default: Any
    setting: Setting

    def problem(self, value: Any, local: bool = True) -> str | None:
        """One message that says why `value` is not allowed, None where it is.

        With `local=False` values that only this installation may not know are allowed.
        """
        name, setting = f"config.{self.name}", self.setting
        if not fits(value, self.hint):
            return f"{name} must be {self.allowed_text()}, not {_shorten(value)}"
        if value is None:
            return None
        choices = setting.allowed_values()
        if choices and value not in choices and (local or not setting.local):
            return (
                f"{name}={_shorten(value)} does not exist; choose one of {', '.join(map(str, choices))}"
                + nearest(_shorten(value), map(str, choices))
            )
        for number in numbers_in(value):
            largest = LARGEST_WHOLE if is_whole(self.hint) else LARGEST
            if isinstance(number, float) and not math.isfinite(number):
                return f"{name} must be {self.allowed_text()}, not {value!r}"
            if abs(number) > largest:
                return f"{name} must be {self.allowed_text()}, and at most {largest:g}, not {_shorten(value)}"
            too_small = (setting.at_least is not None and number < setting.at_least) or (
                setting.above is not None and number <= setting.above
            )
            too_large = (setting.at_most is not None and number > setting.at_most) or (
                setting.below is not None and number >= setting.below
            )
            if too_small or too_large:
                return f"{name} must be {self.allowed_text()}, not {value!r}"
        return None

    def allowed_text(self) -> str:
        """The allowed values in words, for example "(height, width), each at least 32"."""
        words = self.setting.sides or describe(self.hint)
        bounds = self.bounds()
        if bounds:
            words += f", each {bounds}" if is_tuple(self.hint) else f" that is {bounds}"
        return words + (", or None" if is_optional(self.hint) else "")

    def bounds(self) -> str:
        """For example "at least 0 and below 1"."""
        setting = self.setting
        words = {
            "at least": setting.at_least,
            "above": setting.above,
            "at most": setting.at_most,
            "below": setting.below,
        }
        return " and ".join(
            f"{word} {_number_text(bound)}" for word, bound in words.items() if bound is not None
        )


def keys_of(group: type, prefix: str = "") -> Iterator[Key]:
    """The keys of a config dataclass and of the dataclasses inside it, in the order of their fields."""
    hints = typing.get_type_hints(group)
    for field in dataclasses.fields(group):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from keys_of(typing.cast(type, hint), f"{name}.")
        else:
            yield Key(name, hint, field.default, field.metadata["setting"])


def is_optional(hint: Any) -> bool:
    """Whether None is one of a type hint's values."""
    return types.NoneType in typing.get_args(hint) and not is_plain_tuple(hint)


def plain(hint: Any) -> Any:
    """The hint without "| None"."""
    if not is_optional(hint):
        return hint
    return next(part for part in typing.get_args(hint) if part is not types.NoneType)


def is_plain_tuple(hint: Any) -> bool:
    """Whether a hint is `tuple[...]`."""
    return typing.get_origin(hint) is tuple


def is_tuple(hint: Any) -> bool:
    """Whether a hint is `tuple[...]` or `tuple[...] | None`."""
    return is_plain_tuple(plain(hint))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type; whole numbers are numbers, True and False are not."""
    if value is None:
        return is_optional(hint)
    hint = plain(hint)
    if is_plain_tuple(hint):
        parts = typing.get_args(hint)
        if not isinstance(value, tuple) or not value:
            return False
        if parts[-1] is ...:
            return all(fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(fits, value, parts))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def describe(hint: Any) -> str:
    """A type in plain words."""
    hint = plain(hint)
    if is_plain_tuple(hint):
        first, *rest = typing.get_args(hint)
        if is_plain_tuple(first):
            return f"a tuple of tuples of {describe(first)}"
        words = {int: "whole numbers", float: "numbers", str: "texts"}[first]
        return f"a tuple of {words}" if rest == [...] else f"{len(rest) + 1} {words}"
    return {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}[hint]


def numbers_in(value: Any) -> list[float]:
    """The numbers in a value, also in nested tuples."""
    if isinstance(value, tuple):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def is_whole(hint: Any) -> bool:
    """Whether the numbers of a hint are whole."""
    hint = plain(hint)
    return is_whole(typing.get_args(hint)[0]) if is_plain_tuple(hint) else hint is int


def _shorten(value: Any) -> str:
    """A value in a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _number_text(number: float) -> str:
    """Whole numbers in full, others in a few digits."""
    return str(number) if isinstance(number, int) else f"{number:g}"


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" with the known word that is spelled most alike, "" where none is."""
    matches = difflib.get_close_matches(word.lower(), {name.lower(): name for name in known}, 1, 0.6)
    return f"; did you mean {matches[0]}?" if matches else ""
