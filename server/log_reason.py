"""Why Triton did not start, in one sentence taken from its log."""

from __future__ import annotations

import re

_MODEL = tuple(
    re.compile(pattern)
    for pattern in (
        r"failed to load '(?P<model>[^']+)' version \d+: (?P<text>.*)",
        r"Poll failed for model directory '(?P<model>[^']+)': (?P<text>.*)",
        r"(failed to (poll|load)|load failed for) model '(?P<model>[^']+)': (?P<text>.*)",
    )
)
"""What the log says of single models, the most telling first."""
_PARSE_ERROR = re.compile(r"Error parsing text-format inference\.ModelConfig: (?P<text>.*)")
_ERROR = re.compile(r"^error: (?P<text>.*)$")
_MESSAGE = re.compile(r"^E\d{4} [\d:.]+ \d+ \S+\] (?P<text>.*)$")
# What Triton puts before and after the message that was raised.
_PREFIX = re.compile(
    r"^((creating server|Internal|Invalid argument|Not found|Unavailable|ModelLoadError)( -|:) )+"
)
_TRACE = re.compile(r"\n+At:\n.*", re.DOTALL)
_MAX_REASONS = 3


def find_reason(log: str) -> str | None:
    """The reason in the text of a log, with the model's name where it is about one; None if there is none.

    What went wrong with single models goes before what Triton says of the whole.
    """
    lines = log.splitlines()
    for pattern in _MODEL:
        found = [_about_model(match) for line in lines if (match := pattern.search(line))]
        if found:
            found += [match["text"] for line in lines if (match := _PARSE_ERROR.search(line))]
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
