"""Headers from outside the driver's folder reach the compiler."""

from tests.fixtures.machine import commit, pkgkmod, project


def add(driver, name, text):
    path = driver.repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if not path.exists() else path.read_text() + text)


def prepare(folder, driver, *directories, more=()):
    commit(driver.repository, "more")
    where = [word for name in (driver.directory, *directories) for word in ("-d", name)]
    return pkgkmod("prepare_sources", "-g", driver.repository, "-r", "main", *where, *more, cwd=folder)


def info(folder):
    (module,) = (folder / "results").glob("build_modules/*/*/*/hello.ko")
    return module.read_bytes()


def test_a_single_header_that_the_kernel_lacks_and_one_that_it_has(tmp_path, hello, kernel):
    folder = project(tmp_path / "project", hello, kernel, prepare=False)
    add(hello, "include/linux/hello_api.h", '#define HELLO_API "ours"\n')
    add(hello, "include/linux/bitrev.h", '#define BITREV "replaced"\n')  # the kernel has one of this name
    add(
        hello,
        f"{hello.directory}/main.c",
        "#include <linux/hello_api.h>\n#include <linux/bitrev.h>\nMODULE_INFO(api, HELLO_API BITREV);\n",
    )
    prepare(folder, hello, "include/linux/hello_api.h", "include/linux/bitrev.h")
    pkgkmod("build_modules", cwd=folder)
    assert b"api=oursreplaced\0" in info(folder)


def test_what_lies_elsewhere_is_named_and_imported_on_request(tmp_path, hello, kernel):
    folder = project(tmp_path / "project", hello, kernel, prepare=False)
    add(hello, "drivers/misc/common/up.h", '#include "deep.h"\n')
    add(hello, "drivers/misc/common/deep.h", '#define UP "up"\n')
    add(hello, "drivers/platform/far/far.h", '#define FAR "far"\n')
    add(hello, f"{hello.directory}/Makefile", "ccflags-y += -I$(srctree)/drivers/platform/far\n")
    add(
        hello,
        f"{hello.directory}/main.c",
        '#include "../common/up.h"\n#include "far.h"\nMODULE_INFO(where, UP FAR);\n',
    )
    said = prepare(folder, hello).err
    for name in ("drivers/misc/common/up.h", "drivers/platform/far/far.h", "--follow-includes"):
        assert name in said
    assert "up.h: No such file" in pkgkmod("build_modules", cwd=folder, code=8).err
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write("follow_includes = true\n")
    pkgkmod("build", cwd=folder)
    assert b"where=upfar\0" in info(folder)
    pkgkmod("build_rpm", "--from-source", cwd=folder)
