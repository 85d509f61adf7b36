"""What scriptlets of RPMs do, in scratch roots: rpm, the shell and depmod are real; weak-modules, dracut,
kernel-install and SUSE's kmp-* scripts are stand-ins that log their calls.
"""

import subprocess
from pathlib import Path

import pytest

from tests.fixtures import stubkernels
from tests.fixtures.families import family
from tests.fixtures.machine import hello, pkgkmod
from tests.fixtures.rpmrepo import EL, SUSE
from tests.fixtures.rpmroots import SCRIPTLETS, ScratchRoot, dnf, repository, zypper
from tests.fixtures.rpmroots import SUSE as SUSE_ORDER
from tests.fixtures.stubkernels import EL_NEXT, Package

MODULE = f"/lib/modules/{EL}/extra/hand/hand.ko"
# What belongs to no package, since Red Hat's kernels 9 and later bring updates/ and weak-updates/ only.
LEFT = {f"/usr/lib/modules/{EL}/extra"}


@pytest.fixture
def root(tmp_path):
    return ScratchRoot(tmp_path / "root")


@pytest.fixture
def hand_written(tmp_path):
    """Build a package of one file, a module as far as depmod looks, with scriptlets of the test's own."""

    def make(version="1.0-1", calls="_printk", **scripts):
        tree = tmp_path / "tree"
        module = tree / MODULE.lstrip("/")
        module.parent.mkdir(parents=True, exist_ok=True)
        source = f"""char info[] __attribute__((section(".modinfo"))) = "license=GPL";
        int {calls}(void); int init_module(void) {{ return {calls}(); }}"""
        subprocess.run(["gcc", "-xc", "-c", "-o", module, "-"], input=source, text=True, check=True)
        package = Package("kmod-hand", files=(f"/lib/modules/{EL}/extra/hand",), scripts=scripts)
        stubkernels.build(tmp_path / "packages", version, package, tree=tree)
        return tmp_path / f"packages/x86_64/kmod-hand-{version}.x86_64.rpm"

    return make


def test_stand_ins_log_calls_with_arguments_input_and_what_was_there(root, hand_written):
    root.add_kernel(EL)
    words = "/usr/bin/dracut -f '/boot/a b.img' \"$(printf 'two\\nlines')\" ''"
    done = root.install(hand_written(post=f"echo {MODULE} | weak-modules --add-modules --no-initramfs\n{words}"))
    assert done.installed == ("kmod-hand-1.0-1.x86_64",)
    added, image = root.log()
    assert (added.program, added.argv, added.stdin) == (
        "weak-modules",
        ("--add-modules", "--no-initramfs"),
        f"{MODULE}\n",
    )
    assert MODULE in added.files
    assert image.argv == ("-f", "/boot/a b.img", "two\nlines", "")
    assert "/boot/a b.img" in root.files()


def test_calls_of_a_removal_see_the_module_before_and_not_after_it(root, hand_written):
    root.add_kernel(EL)
    root.install(hand_written(preun="dracut before", postun="dracut after"))
    assert root.log() == []
    root.erase("kmod-hand")
    assert [(str(call), MODULE in call.files) for call in root.log()] == [
        ("dracut before", True),
        ("dracut after", False),
    ]
    assert root.files() == LEFT


def test_the_stand_in_of_weak_modules_links_into_the_kernels_that_a_test_names(root, hand_written):
    for kernel in (EL, EL_NEXT, stubkernels.EL_MINOR):
        root.add_kernel(kernel, compatible=kernel == EL_NEXT)
    link = f"/lib/modules/{EL_NEXT}/weak-updates/hand/hand.ko"
    package = hand_written(
        post=f"echo {MODULE} | weak-modules --add-modules", postun=f"echo {MODULE} | weak-modules --remove-modules"
    )
    root.install(package)
    assert str((root / link).readlink()) == MODULE
    assert root.module_file(EL_NEXT, "hand") == link
    assert not list((root / f"lib/modules/{stubkernels.EL_MINOR}/weak-updates").iterdir())
    root.erase("kmod-hand")
    assert root.files() == LEFT


@pytest.mark.parametrize(
    ("symbol", "said"),
    [("_printk", ""), ("no_such_thing", f"depmod: WARNING: {MODULE} needs unknown symbol no_such_thing\n")],
)
def test_the_real_depmod_reads_the_system_map_of_a_stub_kernel(root, hand_written, symbol, said):
    root.add_kernel(EL)
    done = root.install(hand_written(calls=symbol, post=f"depmod -aeF /boot/System.map-{EL} {EL}"))
    assert done.text == said
    assert root.module_file(EL, "hand") == MODULE
    assert [str(call) for call in root.log()] == [f"depmod -aeF /boot/System.map-{EL} {EL}"]


def test_in_one_transaction_a_stub_kernel_gets_its_files_in_boot_after_the_post_of_a_kmod(root, hand_written):
    """As with Red Hat's kernels from 8 on, whose kernel-install runs at the end of the transaction."""
    package = hand_written(post="dracut post", posttrans="dracut posttrans")
    root.install(*stubkernels.red_hat().packages, package)
    maps = {str(call): f"/boot/System.map-{EL}" in call.files for call in root.log("dracut")}
    assert maps == {"dracut post": False, "dracut posttrans": True}


def test_a_failing_stand_in_fails_the_scriptlet_that_minds(root, hand_written):
    root.stand_in("/usr/bin/dracut", code=3)
    minds = hand_written("1.0-1", post="dracut minds")
    assert "%post(kmod-hand-1.0-1.x86_64) scriptlet failed, exit status 3" in root.install(minds, ok=False).text
    root.upgrade(hand_written("2.0-1", post="dracut does not || :"))
    assert [str(call) for call in root.log()] == ["dracut minds", "dracut does not"]


def test_scriptlets_of_suse_find_their_helpers(root, hand_written):
    """SUSE's own spec files call them so (kernel-source, rpm/kernel-module-subpackage)."""
    when = ("pre", "post", "preun", "postun", "posttrans")
    call = 'KMP_NEEDS_MKINITRD=1 {}/kmp-{} --name "hand-kmp-default" "$@"'
    package = hand_written(**{name: call.format(SCRIPTLETS, name) for name in when})
    root.install(package)
    root.erase("kmod-hand")
    assert [str(call) for call in root.log()] == [
        "kmp-pre --name hand-kmp-default 1",
        "kmp-post --name hand-kmp-default 1",
        "kmp-posttrans --name hand-kmp-default 1",
        "kmp-preun --name hand-kmp-default 0",
        "kmp-postun --name hand-kmp-default 0",
    ]
    assert {call.environment["KMP_NEEDS_MKINITRD"] for call in root.log()} == {"1"}


def test_a_machine_without_a_program(root, hand_written):
    root.without("/usr/sbin/weak-modules")
    root.install(hand_written(post="[ ! -x /usr/sbin/weak-modules ] && dracut"))
    assert [call.program for call in root.log()] == ["dracut"]


KERNELS = (EL, EL_NEXT, stubkernels.EL_MINOR)
OURS = f"/lib/modules/{EL}/extra/hello/hello.ko"
LINK = f"/lib/modules/{EL_NEXT}/weak-updates/hello/hello.ko"


def packages(folder, driver, target, *texts):
    """Build a project of the example driver once for each text of its [project] table; return the packages."""
    made = []
    for number, text in enumerate(texts):
        project = family(folder / str(number), driver, target)
        file = project / "pkgkmod.toml"
        file.write_text(file.read_text().replace('name = "hello"\n', text, 1))
        pkgkmod("build_rpm", cwd=project)
        (package,) = project.glob(f"results/build_rpm/{target}/*/*/*.x86_64.rpm")
        made.append(package)
    return made


@pytest.fixture(scope="module")
def red_hat(tmp_path_factory):
    """Two releases of a package, and another one with the same module."""
    folder = tmp_path_factory.mktemp("el9")
    texts = ('name = "hello"\n', 'name = "hello"\nrelease = "2"\n', 'name = "other"\n')
    return packages(folder, hello(folder / "driver"), "el9", *texts)


@pytest.fixture
def several_kernels(root):
    """A machine with the package's kernel, a compatible one, and one that is not; all have a module of that name."""
    for kernel in KERNELS:
        root.add_kernel(kernel, compatible=kernel == EL_NEXT)
        root.put(f"/lib/modules/{kernel}/kernel/drivers/misc/hello.ko", Path("/dev/null"))
    return root


def images(root):
    return sorted(call.argv[-1] for call in root.log("dracut"))


def test_red_hat_install(several_kernels, red_hat):
    root = several_kernels
    root.install(red_hat[0])
    assert [call.program for call in root.log()] == ["depmod", "weak-modules", "dracut", "dracut"]
    depmod, weak, *_ = root.log()
    assert depmod.argv == ("-aeF", f"/boot/System.map-{EL}", EL)
    assert (weak.argv, weak.stdin) == (("--add-modules", "--no-initramfs"), f"{OURS}\n")
    assert OURS in depmod.files
    # Images are made when the links are there, and only for kernels that have the module.
    assert images(root) == [EL, EL_NEXT]
    assert all(LINK in call.files for call in root.log("dracut"))
    assert [root.module_file(kernel, "hello") for kernel in KERNELS[:2]] == [OURS, LINK]


def test_red_hat_upgrade(several_kernels, red_hat):
    root = several_kernels
    root.install(red_hat[0])
    root.forget()
    root.upgrade(red_hat[1])
    assert images(root) == [EL, EL_NEXT]
    assert (root / LINK).is_symlink()
    assert [call.argv[0] for call in root.log("weak-modules")] == ["--add-modules"]
    assert [root.module_file(kernel, "hello") for kernel in KERNELS[:2]] == [OURS, LINK]
    assert not (root / "var/lib/rpm-state/pkgkmod").exists()


def test_red_hat_removal(several_kernels, red_hat):
    root = several_kernels
    root.install(red_hat[0])
    root.forget()
    root.erase("kmod-hello")
    (weak,) = root.log("weak-modules")
    # Without --no-initramfs it makes the images itself, of the kernels that it changed.
    assert (weak.argv, weak.stdin) == (("--remove-modules",), f"{OURS}\n")
    assert OURS not in weak.files
    assert [call.argv for call in root.log("depmod")] == [("-a", EL)]
    assert root.files() == LEFT
    assert root.module_file(EL, "hello") == f"/lib/modules/{EL}/kernel/drivers/misc/hello.ko"


@pytest.mark.parametrize("solver", [None, dnf, zypper])
def test_red_hat_makes_each_image_once_for_all_packages_of_a_transaction(several_kernels, tmp_path, red_hat, solver):
    root, both = several_kernels, (red_hat[0], red_hat[2])
    if solver:
        place = repository(tmp_path / "repository", stubkernels.base_system(), *stubkernels.red_hat().packages, *both)
        assert solver(root, place, "install", "kmod-hello", "kmod-other").accepted
    else:
        root.install(*both)
    assert images(root) == [EL, EL_NEXT]
    assert {OURS, OURS.replace("/hello/", "/other/"), LINK} <= set(root.log("dracut")[0].files)


def test_red_hat_with_the_kernel_in_one_transaction(root, red_hat):
    root.install(*stubkernels.red_hat().packages, red_hat[0])
    # However the two packages are ordered, the last image of this kernel is made when the module is there.
    made = [call for call in root.log("kernel-install", "dracut") if EL in call.argv]
    assert made and OURS in made[-1].files
    assert root.module_file(EL, "hello") == OURS


@pytest.mark.parametrize("program", ["/usr/sbin/weak-modules", "/usr/bin/dracut", "/usr/sbin/depmod"])
def test_red_hat_scriptlets_succeed_where_a_program_fails_or_is_not_there(several_kernels, red_hat, program):
    root = several_kernels
    root.stand_in(program, code=1)
    root.install(red_hat[0])
    root.without(program)
    root.upgrade(red_hat[1])
    root.erase("kmod-hello")
    assert root.log()
    assert not root.files() - LEFT - {f"/usr{LINK}", f"/usr{LINK}".rpartition("/")[0]}


def test_suse_calls(tmp_path):
    root = ScratchRoot(tmp_path / "root", SUSE_ORDER)
    root.add_kernel(SUSE)
    texts = ('name = "hello"\n', 'name = "hello"\nrelease = "2"\n')
    first, second = packages(tmp_path, hello(tmp_path / "driver"), "sle15sp6", *texts)
    for step in (lambda: root.install(first), lambda: root.upgrade(second), lambda: root.erase("hello-kmp-default")):
        step()
    calls = root.log()
    words = [(call.program, call.argv[call.argv.index("--release") + 1], call.argv[-1]) for call in calls]
    assert words == [
        *(("kmp-pre", "1", "1"), ("kmp-post", "1", "1"), ("kmp-posttrans", "1", "1")),
        *(("kmp-pre", "2", "2"), ("kmp-post", "2", "2"), ("kmp-preun", "1", "1"), ("kmp-postun", "1", "1")),
        ("kmp-posttrans", "2", "2"),
        *(("kmp-preun", "2", "0"), ("kmp-postun", "2", "0")),
    ]
    options = dict(zip(calls[0].argv[:-1:2], calls[0].argv[1::2], strict=True))
    assert options["--name"] == "hello-kmp-default"
    assert (options["--kernelrelease"], options["--flavor"]) == tuple(SUSE.rsplit("-", 1))
    assert (options["--version"], options["--usrmerged"]) == ("1.0_k6.4.0_150600.23.47", "0")
    assert root.files() == set()
