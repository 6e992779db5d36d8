"""Reads a Dockerfile into stages and instructions; enough of its syntax for ours."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return self.text.split()

    @property
    def exec_form(self) -> list[str]:
        """The arguments of an instruction in exec form (a JSON list)."""
        parsed = json.loads(self.text)
        assert isinstance(parsed, list)
        return parsed


@dataclass(frozen=True)
class Stage:
    image: str
    name: str | None
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.name == name]

    def last(self, name: str) -> Instruction:
        return self.all(name)[-1]


def read_dockerfile(path: Path) -> list[Stage]:
    stages: list[Stage] = []
    for instruction in _instructions(path.read_text()):
        if instruction.name == "FROM":
            image, *alias = instruction.words
            assert alias == [] or alias[0] == "AS"
            stages.append(Stage(image, alias[1] if alias else None))
        elif stages:
            stages[-1].instructions.append(instruction)
        else:
            assert instruction.name == "ARG"
    return stages


def _instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]
