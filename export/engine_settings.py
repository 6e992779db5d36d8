"""What an engine is to be: its form, its precision and the batches that it is made for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from compositor_backend import contract
from export.errors import ExportError
from export.precision import PRECISIONS

PLAN = "plan"
ACCELERATOR = "accelerator"
ONNX = "onnx"
FORMS = (PLAN, ACCELERATOR, ONNX)
"""An engine built by TensorRT; onnxruntime's TensorRT provider; a graph of another precision on onnxruntime."""


@dataclass(frozen=True)
class Batches:
    """The smallest batch that an engine takes, the one that it is tuned for, and the largest."""

    smallest: int
    tuned: int
    largest: int

    def __post_init__(self) -> None:
        """Refuse what would not serve every request."""
        if not 1 == self.smallest <= self.tuned <= self.largest or self.largest < contract.MAX_FRAMES:
            raise ExportError(
                f"the batches are {self}; 1, the batch to tune for, and the largest are wanted, in this order, the "
                f"largest {contract.MAX_FRAMES} or more, since a request may have 1 to {contract.MAX_FRAMES} rows"
            )

    def __str__(self) -> str:
        return f"{self.smallest},{self.tuned},{self.largest}"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Each of them once, ascending."""
        return tuple(sorted({self.smallest, self.tuned, self.largest}))

    @classmethod
    def parse(cls, text: str) -> Batches:
        """Three numbers with commas between them."""
        numbers = [part.strip() for part in text.split(",")]
        if len(numbers) != 3 or any(re.fullmatch(r"[0-9]{1,4}", number) is None for number in numbers):
            raise ExportError(f"the batches are {text[:40]!r}; three numbers like 1,25,32 are wanted")
        return cls(*map(int, numbers))


DEFAULT_BATCHES = Batches(1, 25, 32)


@dataclass(frozen=True)
class EngineSettings:
    """`form` is one of `FORMS`, `precision` of `PRECISIONS`; an ``onnx`` engine is for any batch."""

    form: str = PLAN
    precision: str = "fp16"
    batches: Batches = DEFAULT_BATCHES

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        if self.form not in FORMS:
            raise ExportError(f"the form is {self.form[:40]!r}; {', '.join(FORMS)} are there")
        if self.precision not in PRECISIONS:
            raise ExportError(
                f"the precision is {self.precision[:40]!r}; {' or '.join(PRECISIONS)} is wanted"
            )
