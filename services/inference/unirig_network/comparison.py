"""One comparison with the reference's outputs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """name: what was compared. largest_error: the worst of it. bound: the most that may be.

    Errors are relative or absolute as the name says; exact things count their differences, with
    a bound of 0.
    """

    name: str
    largest_error: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.largest_error <= self.bound
