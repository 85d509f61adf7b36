"""Modules that script/fuzz changed, each of them refused for another reason."""

import pytest

from tests.fixtures import fuzzing, mutations

FILES = sorted(fuzzing.FOUND.iterdir())
WHOLE = fuzzing.FOUND / "extended-versions-without-vermagic"


def test_there_are_some():
    assert len(FILES) > 15


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_was_found_is_refused_in_one_clear_line(file):
    said = fuzzing.read_module(file.read_bytes())  # it raises what nobody may see
    assert said not in ("", "read")


def test_an_input_is_made_of_the_seed_its_number_and_the_modules_alone():
    module = WHOLE.read_bytes()
    symvers = b"0x00000001\ta\tvmlinux\tEXPORT_SYMBOL\t\n"
    one, other = (fuzzing.Inputs(3, (module,), symvers) for _ in range(2))
    made = [one.make(number)[1] for number in range(100)]
    assert made == [other.make(number)[1] for number in range(100)]
    assert len({*made}) > 80
    assert made != [fuzzing.Inputs(4, (module,), symvers).make(number)[1] for number in range(100)]


def test_a_shape_finds_the_parts_of_a_module():
    module = WHOLE.read_bytes()
    shape = mutations.Shape(module)
    start, size = shape.body(module, shape.sections[".modinfo"])
    assert b"license=" in module[start : start + size]
