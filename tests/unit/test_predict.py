"""The rules by which a kernel takes or refuses a module; modules and kernels are stand-ins made of what is read off."""

import pytest

from pkgkmod.modules.kernelside import KernelSide
from pkgkmod.modules.kmod_deps import Export, Module
from pkgkmod.modules.predict import predict
from pkgkmod.modules.vermagic import expected_words
from pkgkmod.modules.weakupdates import linked

K = "6.1.0-56-amd64"
OTHER = "6.1.0-55-amd64"
TAIL = "SMP preempt mod_unload modversions "
OPTIONS = dict.fromkeys(("SMP", "PREEMPT_BUILD", "MODULE_UNLOAD", "MODVERSIONS", "LIVEPATCH"), "y")
DEBIAN = {"CC_VERSION_TEXT": '"gcc-12 (Debian 12.2.0-14) 12.2.0"'}
LAYOUT = {"module_layout": 9}


def module(name="a", *, versions=None, undefined=(), weak=(), exports=None, built_for=K, tail=TAIL, machine=62, **info):
    modinfo = {"license": "GPL", "vermagic": f"{built_for} {tail}", **info}
    pairs = [(k, v) for k, value in modinfo.items() for v in (value if isinstance(value, list) else [value])]
    crcs = None if versions is None else {**LAYOUT, **versions}
    needed = frozenset(undefined) | frozenset(versions or ()).difference(LAYOUT, weak)
    return Module(f"{name}.ko", tuple(pairs), crcs, needed, frozenset(weak), exports or {}, machine)


def side(exports=None, *, options=None, uname_r=K, **more):
    found = {"module_layout": Export(9, "vmlinux", "EXPORT_SYMBOL", "")}
    for name, fact in (exports or {}).items():
        found[name] = Export(*fact) if isinstance(fact, tuple) else Export(fact, "vmlinux", "EXPORT_SYMBOL", "")
    return KernelSide(uname_r, "x86_64", found, {**OPTIONS, **(OPTIONS if options is None else options), **more})


def one(what, kernel, *providers, **more):
    (found,) = predict([what], kernel, providers, **more)
    return found


def troubles(prediction):
    return {trouble.symbol: trouble.kind for trouble in prediction.troubles}


def gpl(crc=1, owner="vmlinux", namespace=""):
    return (crc, owner, "EXPORT_SYMBOL_GPL", namespace)


def test_a_module_whose_symbols_are_all_there():
    found = one(module(versions={"kfree": 1}, weak=["kfree_weak"]), side({"kfree": 1}))
    assert (found.verdict, found.needs, found.troubles, found.reasons) == ("loads", (), (), ())
    assert (found.module, found.path, found.kernel, found.built_for) == ("a", "a.ko", K, K)


def test_each_trouble_has_its_kind():
    kernel = side({"crc": 2, "gpl": gpl(), "space": (1, "vmlinux", "EXPORT_SYMBOL", "NS"),
                   "mine": (1, "vmlinux", "EXPORT_SYMBOL", "module:b,other-*")})  # fmt: skip
    wanted = {"crc": 1, "gpl": 1, "space": 1, "mine": 1, "gone": 1}
    found = one(module(versions=wanted, license="Proprietary"), kernel)
    assert found.verdict == "refused"
    assert troubles(found) == {
        "crc": "other crc", "gpl": "gpl only", "space": "namespace", "mine": "reserved", "gone": "missing",
    }  # fmt: skip
    crc = next(trouble for trouble in found.troubles if trouble.symbol == "crc")
    assert (crc.needed, crc.there) == (1, 2)
    assert one(module("b", versions={"mine": 1}), kernel).verdict == "loads"
    assert one(module("other_x", versions={"mine": 1}), kernel).verdict == "loads"
    assert one(module(versions={"space": 1}, import_ns=["X", "NS"]), kernel).verdict == "loads"


def test_missing_namespace_imports_may_be_allowed():
    for namespace in ("NS", "module:kvm-amd,kvm-intel"):
        kernel = {"space": (1, "vmlinux", "EXPORT_SYMBOL", namespace)}
        wanted = module(versions={"space": 1})
        assert one(wanted, side(kernel)).verdict == "refused"
        assert one(wanted, side(kernel, MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS="y")).verdict == "loads"
    assert one(module(versions={}, import_ns="module:a"), side()).verdict == "refused"


def test_the_first_license_counts():
    kernel = side({"gpl": gpl()})
    assert one(module(versions={"gpl": 1}, license=["Proprietary", "GPL"]), kernel).verdict == "refused"
    assert one(module(versions={"gpl": 1}, license=["GPL", "Proprietary"]), kernel).verdict == "loads"


def test_weak_symbols_may_be_absent_and_not_different():
    kernel = side({"crc": 2, "gpl": gpl()})
    found = one(module(versions={"crc": 1, "gpl": 1}, weak=["crc", "gpl", "gone"], license="Proprietary"), kernel)
    assert troubles(found) == {"crc": "other crc"}


def test_the_layout_of_modules_is_compared_first():
    other = module(versions={"kfree": 1})._replace(versions={"module_layout": 8, "kfree": 1})
    (trouble,) = one(other, side({"kfree": 1})).troubles
    assert (trouble.symbol, trouble.kind) == ("module_layout", "other crc")
    assert "struct module" in trouble.text


@pytest.mark.parametrize(("options", "verdict"), [(DEBIAN, "refused"), ({}, "loads"), (None, "refused")])
def test_a_crc_that_the_module_lacks_counts_with_debian_kernels(options, verdict):
    kernel = side({"kfree": 1}, options=options or {})
    if options is None:
        kernel = KernelSide(K, "x86_64", kernel.exports, None)
    found = one(module(versions={}, undefined=["kfree"]), kernel)
    assert found.verdict == verdict
    assert troubles(found) == ({"kfree": "no crc"} if verdict == "refused" else {})


def test_the_release_in_vermagic_counts_without_crcs_only():
    assert one(module(versions={}, built_for=OTHER), side()).verdict == "loads"
    plain = {"MODVERSIONS": ""}
    bare = module(built_for=OTHER, tail="SMP preempt mod_unload ")
    (reason,) = one(bare, side(options=plain)).reasons
    assert f"loads into {OTHER} alone" in reason
    assert one(module(tail="SMP preempt mod_unload "), side(options=plain)).verdict == "loads"


def test_the_other_words_of_vermagic_always_count():
    (reason,) = one(module(versions={}, tail="SMP mod_unload modversions "), side()).reasons
    assert reason == (
        "its vermagic says 'SMP mod_unload modversions', and the kernel's 'SMP preempt mod_unload modversions'"
    )


def test_what_a_config_says_in_vermagic():
    rt = {"SMP": "y", "PREEMPT_RT": "y", "MODVERSIONS": "y"}
    assert expected_words(rt, "x86_64") == (("SMP", "preempt_rt", "modversions"),)
    assert expected_words({**rt, "PREEMPT_BUILD": "y"}, "x86_64") == (
        ("SMP", "preempt", "modversions"),
        ("SMP", "preempt_rt", "modversions"),
    )
    assert expected_words({"MPROFILE_KERNEL": "y", "RELOCATABLE": "y"}, "ppc64le") == (
        ("mprofile-kernel", "relocatable"),
    )
    assert expected_words({}, "x86_64") == ((),)


def test_a_module_without_crcs_in_a_kernel_with_them():
    stripped = module(undefined=["kfree"])
    assert one(stripped, side({"kfree": 1})).reasons == ("it has no CRCs, and the kernel wants them",)
    assert one(stripped, side({"kfree": 1}, MODULE_FORCE_LOAD="y")).verdict == "loads"
    exporting = module(versions={}, exports={"mine": None})
    assert one(exporting, side()).reasons == ("what it exports has no CRCs, and the kernel wants them",)


def test_another_machine_and_no_vermagic():
    assert one(module(versions={}, machine=183), side()).reasons == (
        "it is for the machine aarch64, and the kernel for x86_64",
    )
    assert one(module(versions={}, vermagic=""), side()).reasons == ("it has no vermagic",)


def test_live_patches_and_random_layouts():
    assert one(module(versions={}, livepatch="Y"), side()).verdict == "loads"
    assert one(module(versions={}, livepatch="Y"), side(LIVEPATCH="")).verdict == "refused"
    assert one(module(versions={}, built_for=OTHER), side(RANDSTRUCT="y")).verdict == "unknown"
    assert one(module(versions={}), side(RANDSTRUCT="y")).verdict == "loads"


def test_signatures_count_where_they_are_enforced():
    what = module(versions={})
    assert one(what, side(MODULE_SIG_FORCE="y"), signed=lambda _: False).verdict == "refused"
    assert one(what, side(MODULE_SIG_FORCE="y"), signed=lambda _: True).verdict == "loads"
    assert one(what, side(), signed=lambda _: False).verdict == "loads"


def test_siblings_are_loaded_first_and_refused_together():
    base = module("base", versions={"kfree": 1}, exports={"base_get": 5})
    user = module("user", versions={"base_get": 5, "usb_get": 1})
    last = module("last", versions={"user_get": 5})
    user = user._replace(exports={"user_get": 5})
    kernel = side({"kfree": 1, "usb_get": (1, "drivers/usb/core/usb-core", "EXPORT_SYMBOL", "")})
    assert [found.needs for found in predict([last, user, base], kernel)] == [
        ("usb_core", "base", "user"),
        ("usb_core", "base"),
        (),
    ]
    without = side({"usb_get": kernel.exports["usb_get"]})
    found = predict([last, user, base], without)
    assert [one.verdict for one in found] == ["refused"] * 3
    assert found[0].reasons == ("it needs user, which is refused",)
    other = predict([user._replace(versions={**LAYOUT, "base_get": 6, "usb_get": 1}), base], kernel)
    assert troubles(other[0]) == {"base_get": "other crc"}


def test_modules_that_need_each_other_in_a_circle():
    found = predict(
        [module("x", versions={"y": 1}, exports={"x": 1}), module("y", versions={"x": 1}, exports={"y": 1})], side()
    )
    assert [one.verdict for one in found] == ["refused", "refused"]
    assert found[0].reasons == ("it needs y, which needs itself in the end: neither can be loaded first",)


def test_other_packages_provide_symbols_and_are_not_returned():
    base = module("base", versions={}, exports={"base_get": 5})
    assert one(module(versions={"base_get": 5}), side()).verdict == "refused"
    assert one(module(versions={"base_get": 5}), side(), base).needs == ("base",)


def test_of_two_builds_that_for_the_same_kernel_is_used():
    here = module("base", versions={}, exports={"base_get": 5})
    there = module("base", versions={}, exports={"base_get": 6}, built_for=OTHER)
    user = module("user", versions={"base_get": 6}, built_for=OTHER)
    assert predict([here, there, user], side())[2].verdict == "loads"
    assert predict([there, here, user], side())[2].verdict == "loads"


def test_a_module_in_place_of_one_of_the_kernels_own():
    kernel = side({"old": (1, "drivers/foo/a", "EXPORT_SYMBOL", "")})
    ours, user = module("a", versions={}), module("b", versions={"old": 1})
    assert one(user, kernel).needs == ("a",)
    (trouble,) = predict([ours, user], kernel)[1].troubles
    assert (trouble.kind, trouble.text) == ("missing", "only the kernel's own a has it")


def test_what_the_kernel_itself_exports_cannot_be_exported_again():
    (reason,) = one(module(versions={}, exports={"kfree": 1}), side({"kfree": 1})).reasons
    assert reason == "it exports kfree, which the kernel itself exports"


def test_symbols_of_a_closed_sibling_shut_out_those_for_the_gpl():
    closed = module("closed", versions={}, exports={"closed_get": 5}, license="Proprietary")
    user = module("user", versions={"closed_get": 5, "gpl": 1})
    found = one(user, side({"gpl": gpl()}), closed)
    assert troubles(found) == {"gpl": "gpl only"}
    assert one(module("user", versions={"closed_get": 5, "kfree": 1}), side({"kfree": 1}), closed).verdict == "loads"


def test_a_long_chain_of_modules():
    chain = [module(f"m{n}", versions={f"s{n - 1}": 1} if n else {}, exports={f"s{n}": 1}) for n in range(400)]
    found = predict(list(reversed(chain)), side())
    assert {one.verdict for one in found} == {"loads"}
    assert len(found[0].needs) == 399


def test_weak_modules_links_groups_in_whole_or_not_at_all():
    base = module("base", versions={"kfree": 1}, exports={"base_get": 5})
    user = module("user", versions={"base_get": 5})
    alone = module("alone", versions={"gone": 1})
    kernels = [
        side({"kfree": 1}),
        side({"kfree": 1, "gone": 1}, uname_r="good"),
        side({"gone": 1}, uname_r="half"),
        side({"kfree": 1}, uname_r="other half"),
        side(uname_r="none"),
    ]
    found = {kernel.uname_r: linked(predict([base, user, alone], kernel)) for kernel in kernels}
    assert {name: names for name, names in found.items() if names and name != K} == {
        "good": ("alone", "base", "user"),
        "half": ("alone",),
        "other half": ("base", "user"),
    }


def test_weak_modules_does_not_look_at_licenses():
    found = predict([module(versions={"gpl": 1}, license="Proprietary")], side({"gpl": gpl()}, uname_r="good"))
    assert (found[0].verdict, linked(found)) == ("refused", ("a",))
