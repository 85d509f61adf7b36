"""Real kernels of two series, and real drivers that do not compile for the newer one: what breaks them is found."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

from pkgkmod.kernels.tree import read_kernel
from pkgkmod.model.kernel import KernelRelease
from pkgkmod.modules.api.changes import Pair, Used, changes_for
from pkgkmod.modules.api.headerindex import header_indexes
from pkgkmod.modules.api.headertext import Conditions
from pkgkmod.modules.api.use import source_uses
from pkgkmod.modules.kernelside import kernel_side
from pkgkmod.modules.kmod_deps import module_name
from pkgkmod.progress import Progress
from tests.fixtures.archive_modules import archive_package, image_modules
from tests.fixtures.machine import Finished, lacking, need, pkgkmod

# The compiler's complaints (gcc 12) about each driver, built for 6.12.117 with `make -k`, in our words.
BREAKS = {
    "evdi-dkms": {
        ("gone", "DRM_UNLOCKED"),
        ("gone", "FBINFO_DEFAULT"),
        ("gone", "I2C_CLASS_DDC"),
        ("gone", "struct drm_fb_helper.fbdev"),
        ("gone", "struct drm_mode_config_funcs.output_poll_changed"),
        ("changed", "drm_fb_helper_prepare"),
        ("changed", "drm_fb_helper_initial_config"),
        ("changed", "struct platform_driver.remove"),
        ("changed", "struct vm_area_struct.vm_flags"),
        ("include", "drm/drm_encoder.h"),
        ("include", "drm/drm_modeset_helper_vtables.h"),
        ("include", "linux/pid.h"),
    },
    "adv-17v35x-dkms": {
        ("gone", "struct uart_state.xmit"),
        ("gone", "uart_circ_empty"),
        ("gone", "uart_circ_chars_pending"),
        ("include", "linux/circ_buf.h"),
    },
    "librem-ec-acpi-dkms": {
        ("gone", "struct acpi_driver.owner"),
        ("changed", "struct acpi_device_ops.remove"),
        ("misfit", "struct acpi_battery_hook.add_battery"),
        ("misfit", "struct acpi_battery_hook.remove_battery"),
    },
    "openrazer-driver-dkms": {("misfit", "hid_report_raw_event")},
    "rapiddisk-dkms": {
        ("gone", "blk_queue_logical_block_size"),
        ("gone", "blk_queue_physical_block_size"),
        ("gone", "blk_queue_max_discard_sectors"),
        ("gone", "QUEUE_FLAG_NONROT"),
        ("changed", "blk_queue_write_cache"),
    },
    "tp-smapi-dkms": {("changed", "DEFINE_SEMAPHORE")},
    "v4l2loopback-dkms": {("gone", "strlcpy")},
    "jool-dkms": {
        ("gone", "struct genl_info.userhdr"),
        ("changed", "struct genl_family.pre_doit"),
        ("changed", "struct genl_family.post_doit"),
    },
}


def newest(series: str) -> str:
    """Return the newest installed kernel of a series, of the plain flavour."""
    found = []
    for build in Path("/lib/modules").glob(f"{series}.*/build/Module.symvers"):
        with contextlib.suppress(ValueError):
            found.append(KernelRelease(build.parents[1].name))
    plain = [one for one in found if one.flavour == "amd64"]
    if not plain:
        lacking(f"no kernel headers of the series {series} are installed")
    return max(plain).uname_r


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("headers")


@pytest.fixture(autouse=True)
def _headers_are_read_once(monkeypatch, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(scope="module")
def pair(cache) -> Pair:
    kernels = [read_kernel(Path(f"/lib/modules/{newest(one)}/build"), "installed") for one in ("6.1", "6.12")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        old, new = header_indexes(kernels, Progress())
    return Pair(kernel_side(kernels[0]), kernel_side(kernels[1]), old, new)


@pytest.mark.parametrize("package", BREAKS)
def test_what_breaks_a_real_driver_is_found(package, pair, tmp_path):
    need("dpkg-deb")
    subprocess.run(["dpkg-deb", "-x", archive_package(package), tmp_path], check=True)
    conditions = Conditions(pair.new.options, pair.new_headers.version)
    sources = source_uses(tmp_path / "usr/src", conditions, pair.old_headers.find)
    changes = changes_for(pair, Used({}, sources))
    assert BREAKS[package] <= {(change.section, change.name) for change in changes}
    assert all(change.places for change in changes)
    # What compiles is not to be drowned: of hundreds of names that are used, few are complained of.
    complaints = [change for change in changes if change.section in ("gone", "changed", "include", "misfit")]
    assert len(complaints) <= len(BREAKS[package]) + 5


def test_nearly_all_exported_symbols_of_a_real_kernel_have_a_declaration(pair):
    exported = [name for name, export in pair.new.exports.items() if export.module == "vmlinux"]
    declared = [name for name in exported if pair.new_headers.find(name)]
    # The others are declared nowhere in the headers, or by macros.
    assert len(declared) > 0.85 * len(exported)


def test_the_crc_of_a_symbol_is_explained_by_types(pair):
    used = {"device_create_file": ("m",), "i2c_add_adapter": ("m",)}
    found = {change.name: change.chains[0].path for change in changes_for(pair, Used(used))}
    assert found["device_create_file"] == ("struct device",)
    assert found["i2c_add_adapter"][0] == "struct i2c_adapter"


def changes_of(done: Finished) -> dict[str, dict[str, object]]:
    return {str(event["name"]): event for event in done.events if event["event"] == "api-change"}


def test_a_project_is_compared_with_what_was_built_of_it_and_its_sources(pair, tmp_path):
    need("git", "make", "gcc")
    old, new = pair.old.uname_r, pair.new.uname_r
    package = archive_package("v4l2loopback-dkms")
    imported = ("import", "dkms", package, "-o", tmp_path / "p", "--distro", "debian12", "--kernel", old)
    pkgkmod(*imported, cwd=tmp_path)
    sources_alone = changes_of(pkgkmod("apidiff", old, new, "--for", tmp_path / "p", "--json", cwd=tmp_path, code=19))
    assert not (tmp_path / "p/results/prepare_sources").exists()
    assert sources_alone["strlcpy"]["uses"][0]["file"].endswith("v4l2loopback.c")
    assert sources_alone["strlcpy"]["modules"] == []

    pkgkmod("build_modules", cwd=tmp_path / "p")
    done = pkgkmod("apidiff", old, new, "--for", ".", "--json", cwd=tmp_path / "p", code=19)
    built = changes_of(done)
    # Some headers' inline functions use symbols that the sources do not name.
    assert set(sources_alone) < set(built)
    assert built["module_layout"]["modules"] == ["v4l2loopback"]
    text = pkgkmod("apidiff", old, new, "--for", ".", cwd=tmp_path / "p", code=19).out
    assert "strscpy() takes its place" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_modules_are_compared_without_any_project(pair, tmp_path):
    modules = sorted(image_modules(pair.new.uname_r).glob("kernel/drivers/net/ethernet/**/*.ko*"))
    same = pkgkmod("apidiff", pair.new.uname_r, pair.new.uname_r, *modules, cwd=tmp_path)
    assert "nothing changes" in same.out
    some = [word for module in modules for word in ("--modules", module)]
    done = pkgkmod("apidiff", pair.old.uname_r, pair.new.uname_r, *some, cwd=tmp_path, code=19)
    assert any(f"used by {module_name(str(module))}" in done.out for module in modules)


def test_two_kernels_are_compared_as_a_whole(pair, tmp_path):
    done = pkgkmod("apidiff", pair.old.uname_r, pair.new.uname_r, cwd=tmp_path, code=19)
    assert "  __class_create  " in done.out
    assert "    + struct class * class_create(const char *name)" in done.out
    assert max(map(len, done.out.splitlines())) <= 100  # names of symbols and paths are not cut
