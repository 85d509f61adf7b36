"""Lists of RPM's dependencies, as people write them behind Requires: and BuildRequires:."""

from __future__ import annotations

from collections.abc import Iterator

_RELATIONS = ("<", "<=", "=", ">=", ">")


def split_dependencies(text: str) -> list[str]:
    """Return the dependencies of a list, separated by commas or spaces: `a, b >= 1 (c if d)` has three.

    Raise ValueError if its brackets or relations do not match up.
    """
    found: list[str] = []
    words = list(_words(text))
    for number, word in enumerate(words):
        if word in _RELATIONS or (number and words[number - 1] in _RELATIONS):
            if not found or (number == len(words) - 1 and word in _RELATIONS):
                raise ValueError(f"nothing stands beside {word!r}")
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def _words(text: str) -> Iterator[str]:
    """Yield the words of a list; what stands in brackets is one."""
    depth, word = 0, ""
    for character in f"{text} ":
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
        if depth == 0 and (character.isspace() or character == ","):
            if word:
                yield word
            word = ""
        else:
            word += " " if character.isspace() else character
    if depth:
        raise ValueError("its brackets do not match up")
