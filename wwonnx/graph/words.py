"""Names from files, made fit for a line of text."""

from __future__ import annotations

import ast

_LONGEST = 200
_LONGEST_LIST = 20_000


def clean(text: object, longest: int = _LONGEST) -> str:
    """A name without control characters and of bearable length: the middle of a longer one is left out."""
    line = str(text)
    if len(line) > longest:
        half = longest // 2 - 2
        line = f"{line[:half]}...{line[-half:]}"
    return line if line.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in line)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return clean(lines[0]) if lines else type(error).__name__


def root_cause(error: BaseException) -> str:
    """The first line of the error that an error goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def string_list(text: str) -> list[str]:
    """A list of strings as Python writes it, the form in which exporters note scopes; empty where it is none."""
    if len(text) > _LONGEST_LIST:
        return []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [str(item) for item in found] if isinstance(found, list) else []
