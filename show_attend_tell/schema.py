"""Building blocks of settings: fields with a meaning and a range, checked on creation."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

from show_attend_tell.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Meaning:
    """What a field means and which values it takes.

    Attributes:
      text: an explanation for readers, with units.
      choices: the allowed values; empty: any within the bounds.
      least, most: inclusive bounds.
      above, below: exclusive bounds.
      later: whether runs were recorded before there was this setting: at its default it does not
        count towards an experiment's digest, which stays what it was.
    """

    text: str
    choices: tuple[str, ...] = ()
    least: int | float | None = None
    most: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    later: bool = False

    def allows(self, value: Any) -> bool:
        """Whether the value is in range."""
        if self.choices:
            return value in self.choices
        return not (
            (self.least is not None and not value >= self.least)
            or (self.most is not None and not value <= self.most)
            or (self.above is not None and not value > self.above)
            or (self.below is not None and not value < self.below)
        )

    @property
    def range(self) -> str:
        """The range in words; empty if every value of the type is allowed."""
        if self.choices:
            return "choose one of " + ", ".join(map(repr, self.choices))
        if self.least is not None and (self.most is not None or self.below is not None):
            end = f"{self.most:g}]" if self.most is not None else f"{self.below:g})"
            return f"it must lie in [{self.least:g}, {end}"
        if self.above is not None and self.most is not None:
            return f"it must lie in ({self.above:g}, {self.most:g}]"
        if self.above is not None:
            return f"it must be over {self.above:g}"
        if self.least is not None:
            return f"it must be at least {self.least:g}"
        return ""


def setting(default: T, text: str, **bounds: Any) -> T:
    """A field with a default and a `Meaning`."""
    meaning = Meaning(text, **bounds)
    return cast(T, dataclasses.field(default=default, metadata={"meaning": meaning}))


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
_LISTS = {tuple[str, ...]: (str, "strings"), tuple[int, ...]: (int, "whole numbers")}


@dataclass(frozen=True)
class Group:
    """Settings that belong together, checked on creation.

    Raises:
      UserError: a value of the wrong type or out of range; the message names the key.
    """

    path: ClassVar[str] = ""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if "meaning" in field.metadata:
                self._check_field(field)
        self.check()

    def _check_field(self, field: dataclasses.Field) -> None:
        name, value = f"config.{self.path}{field.name}", getattr(self, field.name)
        if field.type is float and type(value) is int:
            value = float(value) if abs(value) < 2**1023 else math.inf  # reported below
        elif field.type is int and type(value) is float and value.is_integer():
            value = int(value)
        elif field.type in _LISTS:
            item, items = _LISTS[cast(type, field.type)]
            if not isinstance(value, list | tuple) or not all(type(v) is item for v in value):
                raise UserError(f"{name} is {value!r}: it must be a list of {items}")
            value = tuple(value)
        elif type(value) is not field.type:
            wanted = _NAMES.get(cast(type, field.type), "of another type")
            raise UserError(f"{name} is {value!r}: it must be {wanted}")
        if type(value) is float and not math.isfinite(value):
            raise UserError(f"{name} is {value!r}: it must be a finite number")
        object.__setattr__(self, field.name, value)
        meaning: Meaning = field.metadata["meaning"]
        if not meaning.allows(value):
            raise UserError(f"{name} is {value!r}: {meaning.range}")

    def check(self) -> None:
        """Raises UserError for values that do not fit each other."""
