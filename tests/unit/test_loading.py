"""Which of several builds counts for a kernel, and what weak-modules makes of RPMs; predictions are made up."""

import pytest

from pkgkmod.errors import InputError
from pkgkmod.model.prediction import Prediction, SymbolTrouble
from pkgkmod.packages.loading import chosen, read_candidates, weak_updates
from pkgkmod.packages.modulefiles import ModuleFile

TROUBLE = (SymbolTrouble(symbol="x", kind="missing", text="nobody exports it"),)


def build(built_for, verdict="loads", *, kernel="k", module="a", package="a.rpm", **more):
    path = f"/lib/modules/{built_for}/extra/{module}.ko"
    known = {"module": module, "path": path, "package": package, "built_for": built_for, "kernel": kernel}
    return Prediction(**{**known, "verdict": verdict, **more})


def test_the_build_for_the_kernel_counts_whatever_it_does():
    assert chosen([build("j"), build("k", "refused"), build("l")])[0].built_for == "k"


def test_without_one_the_build_counts_that_does_best_and_then_the_last():
    ones = [build("h"), build("i"), build("j", "unknown"), build("l", "refused")]
    assert [one.built_for for one in chosen(ones)] == ["i"]
    assert [one.built_for for one in chosen(ones[2:])] == ["j"]


def test_weak_updates_are_those_of_rpms_with_modules_below_extra():
    ones = [
        build("j"),
        build("j", "refused", module="b", troubles=TROUBLE),
        build("k", package="own.rpm"),
        build("j", package="a.deb"),
        build("j", package="c.rpm", path="/lib/modules/j/updates/a.ko"),
    ]
    (found,) = weak_updates({"k": ones})
    assert (found.package, found.built_for, found.kernel, found.modules) == ("a.rpm", "j", "k", ("a",))
    assert not found.complete


def test_a_damaged_module_is_named():
    with pytest.raises(InputError, match=r"a\.ko cannot be read: not an ELF file"):
        read_candidates([ModuleFile("a.ko", b"text" * 10)], lambda _: False)
