"""Where keys stand: agrees with tomllib on every text that it accepts."""

import itertools
import tomllib

import pytest
import tomlkit
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from pkgkmod.config.positions import locate


def paths(value, path=()):
    """Return every path that tomllib finds."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from paths(inner, (*path, number))


TEXT = """\
# a comment with "quotes' and [brackets]
top = 1
a.b."c.d" = "x # no comment" # comment
a.'e"f' = 'literal \\'

[project]   # one
name = "x"
text = \"\"\"
[not.a.table]
not_a_key = 1 \\"\"\"
\"\"\"
quoted = \"\"\"two at the end\"\"\"\"\"
other = '''
[nor.this]
'''
list = [
  "a", # ]
  [1, 2,
   3],
  { x = 1, y.z = "}" },
]
[[target]]
distro = "el9"
[target.inner]
deep = 1979-05-27 07:32:00Z
[[target]]
distro = 'el8'
[[target.many]]
n = 1
[[target.many]]
n = 2
[late."quo]ted"]
[late]
x = -1.5e3
"""


def test_a_text_with_all_that_toml_has():
    lines = locate(TEXT)
    assert set(lines) == set(paths(tomllib.loads(TEXT)))
    assert {
        path: lines[path] for path in lines if len(path) == 1 or path[:2] == ("target", 1) or path[0] == "late"
    } == {
        ("top",): 2,
        ("a",): 3,
        ("project",): 6,
        ("target",): 22,
        ("target", 1): 26,
        ("target", 1, "distro"): 27,
        ("target", 1, "many"): 28,
        ("target", 1, "many", 0): 28,
        ("target", 1, "many", 0, "n"): 29,
        ("target", 1, "many", 1): 30,
        ("target", 1, "many", 1, "n"): 31,
        ("late", "quo]ted"): 32,
        ("late",): 33,
        ("late", "x"): 34,
    }
    assert lines["a", "b", "c.d"] == 3
    assert lines["a", 'e"f'] == 4
    assert lines["project", "quoted"] == 12
    assert lines["project", "list", 1, 2] == 19
    assert lines["project", "list", 2, "y", "z"] == 20
    assert lines["target", 0, "inner", "deep"] == 25


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "a = 1", "a = 1\r\nb = [\r\n1,\r\n]\r\nc = 3", "[a]"])
def test_small_texts(text):
    assert set(locate(text)) == set(paths(tomllib.loads(text)))


def test_windows_line_ends_count_once():
    assert locate("a = 1\r\nb = [\r\n1,\r\n2]\r\n") == {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4}


NAMES = st.one_of(st.sampled_from(["a", "b", "name", "1"]), st.text(st.characters(codec="utf-8"), max_size=8))
LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.text("[]{}=,.#'\"\\\n ", max_size=12),
    st.datetimes(),
    st.dates(),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=5)


def written(document, multiline):
    """Return the text that tomlkit writes, and what tomllib reads; tomlkit writes a few texts that are no TOML."""
    made = tomlkit.item(document)
    for value in made.values():
        if multiline and isinstance(value, tomlkit.items.Array):
            value.multiline(True)
    text = made.as_string()
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        reject()


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS, st.booleans())
def test_every_key_that_tomllib_finds_is_found(document, multiline):
    text, parsed = written(document, multiline)
    assert set(locate(text)) == set(paths(parsed))


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS, st.booleans())
def test_every_key_is_on_its_line(document, multiline):
    text, parsed = written(numbered(document, itertools.count()), multiline)
    for path, line in locate(text).items():
        # A key that is no table stands in one place only.
        if isinstance(path[-1], str) and not isinstance(at(parsed, path), dict | list):
            assert [n for n, found in enumerate(text.split("\n"), 1) if path[-1] in found] == [line]


def numbered(value, count):
    """Return `value` with a name of its own for every key."""
    if isinstance(value, dict):
        return {f"key-{next(count)}-": numbered(inner, count) for inner in value.values()}
    return [numbered(inner, count) for inner in value] if isinstance(value, list) else value


def at(value, path):
    for part in path:
        value = value[part]
    return value
