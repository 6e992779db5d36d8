from __future__ import annotations

import inspect
import re

import pytest

from compositor_backend import errors

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


def drawn_tree() -> dict[str, str]:
    """Class to parent, as drawn in the module's docstring."""
    parents, above = {}, {}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"( {4}[│├└─ ]*)(\w+Error)\b", line):
            depth = len(match[1]) // 4
            above[depth] = match[2]
            parents[match[2]] = above.get(depth - 1, "Exception")
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn_tree() == {cls.__name__: cls.__base__.__name__ for cls in CLASSES if cls.__base__}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_the_common_base_and_keeps_its_sentence(cls: type[Exception]) -> None:
    assert issubclass(cls, errors.LipstreamError)
    assert str(cls("PCM is short.")) == "PCM is short."


@pytest.mark.parametrize("cls", [errors.PackError, errors.SettingsError])
def test_what_the_operator_did_wrong_is_no_answer_to_a_caller(cls: type[Exception]) -> None:
    assert not issubclass(cls, errors.RequestError)
