"""Why Triton did not start, in one sentence taken from its log."""

from __future__ import annotations

import re

_FAILED_LOAD = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<text>.*)")
_FAILED_POLL = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<text>.*)")
_FAILED_SERVICE = re.compile(r"failed to start (?P<model>\w+) service: (?P<text>.*)")
_NOT_FOUND = re.compile(
    r"failed to load '(?P<model>[^']+)': (?P<text>.*)|\"?failed to poll model repository.*"
)
_MESSAGE = re.compile(r"^E\d{4} [\d:.]+ \d+ \S+\] (?P<text>.*)$")
_ERROR = re.compile(r"^error: (?P<text>.*)$")
# What Triton puts before and after the message that was raised.
_PREFIX = re.compile(
    r"^((Internal|Invalid argument|Not found|Unavailable|TritonModelException|LoadError)( -|:) ?)+"
)
_TRACE = re.compile(r"\n+At:\n.*", re.DOTALL)
_MAX_REASONS = 3


def find_reason(log: str) -> str | None:
    """The reason in the text of a log, with the model's name where it is about one; None if there is none.

    What went wrong with single models goes before what Triton says of the whole.
    """
    lines = log.splitlines()
    for pattern in (_FAILED_LOAD, _FAILED_POLL, _FAILED_SERVICE):
        found = [_about_model(match) for line in lines if (match := pattern.search(line))]
        if found:
            return "; ".join(list(dict.fromkeys(found))[:_MAX_REASONS])
    for pattern in (_ERROR, _MESSAGE):
        messages = [_clean(match["text"]) for line in lines if (match := pattern.search(line))]
        if messages:
            return messages[-1]
    return None


def _about_model(match: re.Match[str]) -> str:
    text = _clean(match["text"])
    return text if match["model"] in text else f"{match['model']}: {text}"


def _clean(text: str) -> str:
    text = text.strip().removeprefix('"').removesuffix('"')
    text = text.replace("\\n", "\n").replace('\\"', '"').rstrip(";\n ")
    text = _TRACE.sub("", text).strip()
    return " ".join(_PREFIX.sub("", text).rstrip(".").split())
