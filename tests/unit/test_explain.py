"""What explain makes of modules, kernels and dependencies; the package's header is a stand-in."""

from types import SimpleNamespace

import pytest

from pkgkmod.errors import InputError
from pkgkmod.formats.rpmheader import MalformedError
from pkgkmod.modules.kmod_deps import Export, Module
from pkgkmod.packages.explain import Contents, KernelSymbols, explain, problem, read_kernel_symbols

RELEASE = "6.1.0-56-amd64"


class StandInHeader(dict):
    """A header by tag."""

    def texts(self, tag):
        return self[tag]

    def numbers(self, tag):
        return self[tag]

    def text(self, tag):
        if tag not in self:
            raise MalformedError(f"no tag {tag}")
        return self[tag][0]


def module(name="a.ko", *, versions=None, undefined=(), weak=(), exports=None, info=()):
    path = f"/lib/modules/{RELEASE}/extra/{name}"
    modinfo = (("license", "GPL"), ("vermagic", f"{RELEASE} SMP"), *info)
    return Module(path, modinfo, versions, frozenset(undefined), frozenset(weak), exports or {})


def contents(*modules, **dependencies):
    header = StandInHeader({1000: ["kmod-a"], 1001: ["1"], 1002: ["2"], 1022: ["x86_64"], 1004: ["An example"]})
    for names, flags, versions, kind in ((1049, 1048, 1050, "requires"), (1047, 1112, 1113, "provides")):
        rows = dependencies.get(kind, ())
        header |= {names: [r[0] for r in rows], flags: [r[1] for r in rows], versions: [r[2] for r in rows]}
    return Contents(SimpleNamespace(header=header, path="a.rpm"), modules)


def kernel(release=RELEASE, **exports):
    table = {name: Export(*(fact if isinstance(fact, tuple) else (fact, "vmlinux", "EXPORT_SYMBOL", "")))
             for name, fact in exports.items()}  # fmt: skip
    return KernelSymbols(release, "Module.symvers", table)


def states(explanation):
    return {use.symbol: use.state for one in explanation.modules for use in one.symbols}


def test_each_symbol_has_its_state():
    user = module(
        versions={
            "same": 1,
            "changed": 2,
            "gone": 3,
            "sibling": 4,
            "sibling_changed": 5,
            "optional": 8,
            "optional_there": 7,
        },
        undefined={"same", "changed", "gone", "sibling", "sibling_changed", "without_crc"},
        weak={"optional", "optional_there"},
    )
    owner = module("b.ko", versions={}, exports={"sibling": 4, "sibling_changed": 6})
    there = kernel(same=1, changed=9, without_crc=0, optional_there=7)
    found = explain(contents(user, owner), there)
    assert states(found) == {
        "same": "same",
        "changed": "other",
        "gone": "missing",
        "sibling": "own",
        "sibling_changed": "other",
        "without_crc": "same",
        "optional_there": "same",
    }
    assert found.problems == (
        "a.ko: changed: CRC 0x00000002 is needed, 0x00000009 is there",
        "a.ko: gone: not there",
        "a.ko: sibling_changed: CRC 0x00000005 is needed, 0x00000006 is there",
    )


def test_without_a_kernel_nothing_is_claimed():
    found = explain(contents(module(versions={"x": 1})), None)
    assert states(found) == {"x": "not known"}
    assert found.problems == ()


@pytest.mark.parametrize(
    ("info", "export", "reason"),
    [
        ((), (1, "vmlinux", "EXPORT_SYMBOL_GPL", ""), ""),
        ((), (1, "vmlinux", "EXPORT_SYMBOL", "NS"), "it is in the namespace NS, which the module does not import"),
        ((("import_ns", "NS"),), (1, "vmlinux", "EXPORT_SYMBOL", "NS"), ""),
        ((), (1, "vmlinux", "EXPORT_SYMBOL_GPL", "module:kvm,a"), ""),
        ((), (1, "vmlinux", "EXPORT_SYMBOL_GPL", "module:kvm,a*"), ""),
        ((), (1, "vmlinux", "EXPORT_SYMBOL_GPL", "module:kvm"), "it is for the modules kvm alone"),
    ],
)
def test_symbols_that_are_not_for_every_module(info, export, reason):
    found = explain(contents(module(versions={"x": 1}, info=info)), kernel(x=export))
    (use,) = found.modules[0].symbols
    assert (use.state, use.reason) == ("refused" if reason else "same", reason)
    if reason:
        assert problem(use) == f"x: {reason}"


def test_a_module_that_is_not_under_the_gpl():
    proprietary = module(versions={"x": 1})._replace(modinfo=(("license", "Proprietary"),))
    found = explain(contents(proprietary), kernel(x=(1, "vmlinux", "EXPORT_SYMBOL_GPL", "")))
    assert found.problems == ("a.ko: x: it is for modules under the GPL, and this one is under 'Proprietary'",)


def test_without_crcs_the_release_decides():
    plain = contents(module(undefined={"x"}))
    assert explain(plain, kernel(x=0)).problems == ()
    assert explain(plain, kernel("6.1.0-57-amd64", x=0)).problems == (
        f"a.ko: it has no CRCs, and was built for {RELEASE}",
    )
    assert explain(plain, kernel("", x=0)).problems == ()


def test_dependencies_in_words_and_whether_they_are_met():
    rows = [
        ("kernel(x)", 8, "0x00000001"),
        ("kernel(y)", 8, "0x00000002"),
        ("ksym(default:own)", 8, "3"),
        ("kernel-uname-r", 8, "6.1.0-1-amd64"),
        ("/usr/sbin/depmod", 1 << 10, ""),
        ("/usr/sbin/depmod", 1 << 12, ""),
        ("libfoo", 12, "2.0"),
        ("rpmlib(A)", 10, "1-1"),
    ]
    owner = module(versions={}, exports={"own": 3})
    package = contents(owner, requires=rows, provides=[("kmod-a", 8, "1-2"), ("a-kmod", 8, "1")])
    found = explain(package, kernel(x=1, y=9))
    said = {one.texts: (one.words, one.moments, one.unmet) for one in found.relations["requires"]}
    unmet = "kernel(y) = 0x00000002"
    assert said == {
        ("kernel(x) = 0x00000001", unmet): ("symbols of the kernel, each with its CRC", (), (unmet,)),
        ("ksym(default:own) = 3",): ("symbols, each with its CRC", (), ()),
        ("kernel-uname-r = 6.1.0-1-amd64",): ("the kernel, by its release", (), ("kernel-uname-r = 6.1.0-1-amd64",)),
        ("/usr/sbin/depmod",): ("lists modules and what they need for modprobe", ("%post", "%postun"), ()),
        ("libfoo >= 2.0",): ("", (), ()),
        ("rpmlib(A) <= 1-1",): ("features of rpm itself", (), ()),
    }
    assert found.problems == ("it requires kernel-uname-r = 6.1.0-1-amd64",)
    assert [one.words for one in found.relations["provides"]] == [
        "the package itself",
        "the driver, whatever the package is called",
    ]


def test_scriptlets_and_the_programs_they_call():
    package = contents(module(versions={}))
    body = "/usr/sbin/depmod -a\nx-kmp-default\n/x/kmp-post --name a\n"
    package.package.header |= {1024: [body], 1087: ["/bin/true"]}
    assert explain(package, None).scriptlets == {"%post": ("depmod", "kmp-post"), "%preun": ()}


def test_a_header_that_makes_no_sense_is_refused():
    package = contents(module(versions={}), requires=[("a", 8, "1")])
    package.package.header[1050] = []
    with pytest.raises(InputError, match="cannot be read as an RPM"):
        explain(package, None)
    del package.package.header[1001]
    with pytest.raises(InputError, match="cannot be read as an RPM"):
        explain(package, None)


def test_a_symvers_that_is_none(tmp_path):
    (tmp_path / "Module.symvers").write_text("hello\n")
    with pytest.raises(InputError, match="line 1 is not one"):
        read_kernel_symbols("", tmp_path / "Module.symvers")


def test_symbols_of_other_packages_that_are_given_with_it():
    base = module("base.ko", versions={}, exports={"base_get": 5, "base_put": 6})
    user = module("user.ko", versions={"base_get": 5, "base_put": 7})
    needs = (("ksym(base_get)", 8, "0x00000005"), ("ksym(gone)", 8, "0x00000001"))
    found = explain(contents(user, requires=needs), kernel(), [base])
    assert states(found) == {"base_get": "provided", "base_put": "other"}
    assert [text for relation in found.relations["requires"] for text in relation.unmet] == ["ksym(gone) = 0x00000001"]
    assert states(explain(contents(user), kernel())) == {"base_get": "missing", "base_put": "missing"}
