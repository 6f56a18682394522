"""One dimension of a search space, as a file gives it and as a sampler draws it."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Value = str | int | float | bool | None


class Strict(BaseModel):
    """A part of a space's file: unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )


class Parameter(Strict):
    """One dimension of a space: a range of real or whole numbers, or a list of choices."""

    real: tuple[float, float] | None = Field(default=None, alias="float")
    whole: tuple[int, int] | None = Field(default=None, alias="int")
    choices: tuple[Any, ...] | None = None
    step: float | None = Field(default=None, gt=0)
    log: bool = False
    when: dict[str, Any] = {}
    coarse: tuple[Any, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _lists_as_text(cls, value: Any) -> Any:
        # A sampler's choice is one value; the schema reads `a,b` as a list.
        if isinstance(value, dict):
            return {
                key: [plain(each) for each in entry]
                if key in ("choices", "coarse") and isinstance(entry, list)
                else entry
                for key, entry in value.items()
            }
        return value

    @model_validator(mode="after")
    def _is_one_distribution(self) -> "Parameter":
        kinds = [each for each in (self.real, self.whole, self.choices) if each is not None]
        if len(kinds) != 1:
            raise ValueError("should have one of float: [low, high], int: [low, high], choices")
        if self.choices is not None:
            if not self.choices or len(set(map(repr, self.choices))) < len(self.choices):
                raise ValueError("choices should be a list of different values")
            if self.log or self.step is not None:
                raise ValueError("choices have neither log nor step")
        else:
            self._check_range()
        for value in self.coarse or ():
            if not self.contains(value):
                raise ValueError(f"the coarse value {value!r} is outside {self.describe()}")
        if self.coarse == ():
            raise ValueError("coarse should have at least one value")
        return self

    def _check_range(self) -> None:
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"low {low:g} should be below high {high:g}")
        if self.log and low <= 0:
            raise ValueError(f"a log range should begin above 0, not at {low:g}")
        if self.log and self.step is not None:
            raise ValueError("a range is either log or has a step")
        if self.whole is not None and self.step is not None and self.step != int(self.step):
            raise ValueError(f"the step of an int range should be whole, not {self.step:g}")
        if self.step is not None and not _divides(self.step, high - low):
            raise ValueError(f"the step {self.step:g} should lead from {low:g} to {high:g}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a range."""
        both = self.real if self.real is not None else self.whole
        assert both is not None
        return both

    def contains(self, value: Any) -> bool:
        """Tell whether a value is one that the sampler could draw."""
        if self.choices is not None:
            return any(value == each and type(value) is type(each) for each in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self.bounds
        inside = low <= value <= high and (self.whole is None or value == int(value))
        return inside and (self.step is None or _divides(self.step, value - low))

    def extremes(self) -> tuple[Value, ...]:
        """List the values that stand for all: every choice, or both ends of a range."""
        return self.choices if self.choices is not None else self.bounds

    def levels(self) -> tuple[Value, ...]:
        """List the values of the coarse grid: as declared, every choice, or low, middle, high."""
        if self.coarse is not None:
            return self.coarse
        if self.choices is not None:
            return self.choices
        low, high = self.bounds
        middle = math.sqrt(low * high) if self.log else (low + high) / 2
        if self.whole is not None:
            return tuple(dict.fromkeys((int(low), int(middle), int(high))))
        if self.step is not None:
            middle = low + self.step * round((middle - low) / self.step)
        return tuple(dict.fromkeys((low, float(f"{middle:.3g}"), high)))

    def describe(self) -> str:
        """Write the distribution in words."""
        if self.choices is not None:
            return "one of " + ", ".join("null" if c is None else str(c) for c in self.choices)
        low, high = self.bounds
        kind = "int" if self.whole is not None else "float"
        scale = ", log" if self.log else "" if self.step is None else f", step {self.step:g}"
        return f"{kind} {low:g} to {high:g}{scale}"


def plain(value: Any) -> Any:
    """Write a list as ``a,b``, as the schema reads it; a sampler's choice is one value."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _divides(step: float, distance: float) -> bool:
    return abs(distance / step - round(distance / step)) < 1e-9
