"""Loading: layers and who wins, every kind of mistake with its file and line, hostile files."""

from pathlib import Path

import pytest

from pkgkmod.config import layers
from pkgkmod.config.load import load
from pkgkmod.errors import ConfigError, ExitCode

GOOD = '[project]\nname = "foo"\n'


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without settings of its own, and a present folder with a project."""
    monkeypatch.setattr(layers, "SYSTEM_FILE", tmp_path / "etc" / "pkgkmod.toml")
    monkeypatch.setattr(layers, "SYSTEM_PROFILES", tmp_path / "etc" / "pkgkmod.d" / "profiles")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    return tmp_path


def write(path, text):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def loaded(text=GOOD, **more):
    return load(write("pkgkmod.toml", text), **more)


def mistakes(text, **more):
    """Return the messages of a file with mistakes, one each, as a user reads them."""
    with pytest.raises(ConfigError) as caught:
        loaded(text, **more)
    error = caught.value
    assert error.exit_code == ExitCode.CONFIG
    said = f"{error.brief}\n{error.details}\n{error.hint}"
    assert all(c.isprintable() or c == "\n" for c in said)
    assert "pydantic" not in said
    assert "\n" not in error.brief
    if error.brief.endswith(" mistakes"):
        lines = [line for line in error.details.split("\n") if not line.startswith("  ")]
        assert error.brief == f"pkgkmod.toml: {len(lines)} mistakes"
        return lines
    return [error.brief]


# --- layers ----------------------------------------------------------------------------------------


def test_the_last_layer_wins_and_each_value_knows_its_own(machine):
    write(machine / "etc/pkgkmod.toml", '[project]\nvendor = "etc"\nurl = "etc"\nrelease = "2"\n[build]\njobs = 1\n')
    write(machine / "home/pkgkmod.toml", '[project]\nurl = "user"\nrelease = "3"\n\n[build]\njobs = 2\n')
    write("profiles/farm.toml", "[build]\njobs = 3\nany_compiler = true\nfrom_source = true\n")
    text = '[project]\nname = "foo"\nrelease = "4"\n[build]\nany_compiler = false\n'
    found = loaded(
        text,
        profile="farm",
        overrides=["build.time_limit=5", "build.from_source=false"],
        settings={"build.time_limit": 7},
    )
    project = found.project
    values = (project.project.vendor, project.project.url, project.project.release, project.project.version)
    assert values == ("etc", "user", "4", "1.0")
    assert project.build.model_dump(include={"jobs", "any_compiler", "from_source", "time_limit"}) == {
        "jobs": 3,
        "any_compiler": False,
        "from_source": False,
        "time_limit": 7,
    }
    origins = {
        ("project", "vendor"): f"{machine}/etc/pkgkmod.toml:2",
        ("project", "url"): f"{machine}/home/pkgkmod.toml:2",
        ("project", "release"): "pkgkmod.toml:3",
        ("project", "version"): "built-in",
        ("build", "jobs"): "profiles/farm.toml:2",
        ("build", "any_compiler"): "pkgkmod.toml:5",
        ("build", "from_source"): "-C",
        ("build", "time_limit"): "command line",
    }
    assert {key: str(found.origin(key)) for key in origins} == origins


def test_arrays_are_replaced_not_merged(machine):
    write(machine / "etc/pkgkmod.toml", '[source]\ndirectories = ["a", "b", "c"]\n')
    found = loaded(GOOD + '[source]\ndirectories = ["d"]\n')
    assert found.project.source.directories == ("d",)
    assert [key for key in found.origins if key[:2] == ("source", "directories")] == [
        ("source", "directories"),
        ("source", "directories", 0),
    ]


def test_tables_of_the_user_merge_with_those_of_the_project(machine):
    write(machine / "home/pkgkmod.toml", "[kconfig]\nA = 'm'\nB = 'y'\n")
    assert loaded(GOOD + "[kconfig]\nB = 'n'\nC = 4\n").project.kconfig == {"A": "m", "B": "n", "C": 4}


def test_a_relative_xdg_folder_does_not_count(machine, monkeypatch):
    write(machine / "home2/.config/pkgkmod.toml", '[project]\nurl = "home"\n')
    write("conf/pkgkmod.toml", '[project]\nurl = "relative"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", "conf")
    monkeypatch.setenv("HOME", str(machine / "home2"))
    assert loaded().project.project.url == "home"


def test_without_a_home_there_is_no_user_layer(monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME")
    assert loaded().project.project.name == "foo"


def test_the_folder_is_that_of_the_file_as_named_not_of_what_a_link_points_to(machine):
    real = write(machine / "elsewhere/real.toml", GOOD)
    Path("pkgkmod.toml").symlink_to(real)
    found = load(Path("pkgkmod.toml"))
    assert found.folder == Path.cwd()
    assert found.path == Path.cwd() / "pkgkmod.toml"


# --- profiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["etc/pkgkmod.d/profiles", "home/pkgkmod/profiles", "project/profiles"])
def test_profiles_are_found_in_three_places(machine, folder):
    write(machine / folder / "p.toml", '[project]\nurl = "profile"\n')
    assert loaded(profile="p").project.project.url == "profile"


def test_a_given_profile_folder_is_the_only_one(machine):
    write("profiles/p.toml", '[project]\nurl = "wrong"\n')
    write(machine / "own/p.toml", '[project]\nurl = "right"\n')
    assert loaded(profile="p", profile_dir=machine / "own").project.project.url == "right"


def test_a_missing_profile_is_an_error_with_near_names():
    write("profiles/farm.toml", "")
    with pytest.raises(ConfigError, match="there is no profile 'fram'") as caught:
        loaded(profile="fram")
    assert caught.value.hint == "did you mean 'farm'?"
    assert "profiles" in caught.value.details
    with pytest.raises(ConfigError, match="no profile 'zzz'") as caught:
        loaded(profile="zzz")
    assert caught.value.hint == "there are: farm"


@pytest.mark.parametrize("name", ["", "..", "../etc", "/etc/x", "a\0b"])
def test_a_profile_name_leads_nowhere_else(name):
    with pytest.raises(ConfigError, match="not the name of a profile"):
        loaded(profile=name)


def test_a_mistake_in_a_profile_names_the_profile():
    write("profiles/farm.toml", "\n[build]\njbos = 3\n")
    assert mistakes(GOOD, profile="farm") == ["profiles/farm.toml:3: build.jbos: unknown key; did you mean 'jobs'?"]


# --- -C --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("build.jobs=4", "build.jobs", 4),
        ("jobs=4", "build.jobs", 4),
        ("build.sandbox = false", "build.sandbox", False),
        ("version=1.2", "project.version", "1.2"),
        ("release=2", "project.release", "2"),
        ("name=bar", "project.name", "bar"),
        ('summary="a \\"b\\" = c"', "project.summary", 'a "b" = c'),
        ("summary=plain words, and=more", "project.summary", "plain words, and=more"),
        ("summary=2024-01-01", "project.summary", "2024-01-01"),
        ("vendor=true", "project.vendor", "true"),
        ('source.directories=["a", "b"]', "source.directories", ("a", "b")),
        ("kconfig.E1000E=m", "kconfig", {"E1000E": "m"}),
        ("kconfig.SIZE=12", "kconfig", {"SIZE": 12}),
        ("description=", "project.description", ""),
        ('plugin."a.b".x=[1]', "plugin", {"a.b": {"x": (1,)}}),
    ],
)
def test_overrides(override, key, value):
    found = loaded(overrides=[override]).project
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_table_that_is_written_as_a_value():
    found = loaded(overrides=['target=[{distro="el9", minor=4}]'])
    assert [(target.distro, target.minor) for target in found.project.target] == [("el9", 4)]


def test_the_last_override_wins():
    assert loaded(overrides=["jobs=4", "build.jobs=5"]).project.build.jobs == 5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("jobs", "-C: 'jobs' must be of the form key=value"),
        ("=4", "-C: '' is not a key"),
        ("a b=4", "-C: 'a b' is not a key"),
        ("a\n[b]\nc=4", "-C: 'a\\n[b]\\nc' is not a key"),
        ("jbos=4", "-C: jbos: unknown key; did you mean 'jobs'?"),
        ("builder=mock", "-C: builder: there are several: rpm.builder, deb.builder"),
        ("build.jbos=4", "-C: build.jbos: unknown key; did you mean 'jobs'?"),
        ("build.jobs=four", "-C: build.jobs: expected a whole number, got text 'four'"),
        ("build.jobs=4\nx = 5", "-C: build.jobs: expected a whole number, got text '4\\nx = 5'"),
        ("build=4", "-C: build: expected a table ([build]), got the number 4"),
        ("plugin.x=" + "[" * 4000 + "]" * 4000, "-C: plugin.x: expected a table, got text '" + "[" * 59 + "…'"),
    ],
)
def test_overrides_that_are_wrong(override, said):
    assert mistakes(GOOD, overrides=[override]) == [said]


def test_wrong_settings_name_the_command_line():
    said = mistakes(GOOD, settings={"source.directories": ("ok", "../no")})
    assert said == [
        "command line: source.directories[2]: must be a path inside the kernel tree, without '..' (given: '../no')"
    ]


# --- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ' project.name: missing; the table [project] must have it, as in: name = "e1000e"'),
        ("# x\n[project]\n", '2: project.name: missing; the table [project] must have it, as in: name = "e1000e"'),
        (GOOD + 'verison = "1"', "3: project.verison: unknown key; did you mean 'version'?"),
        (GOOD + 'revision = "1"', "3: project.revision: unknown key; it belongs in [source]"),
        (GOOD + "zzz = 1", "3: project.zzz: unknown key; known are: name, version, release"),
        (GOOD + "[proj]\nx = 1", "3: proj: unknown key; did you mean 'project'?"),
        (GOOD + "[build]\njobs = 'x'", "4: build.jobs: expected a whole number, got text 'x'"),
        (GOOD + "[build]\njobs = '4'", "4: build.jobs: expected a whole number, got text '4'"),
        (GOOD + "[build]\njobs = 1.0", "4: build.jobs: expected a whole number, got the number 1.0"),
        (GOOD + "[build]\njobs = true", "4: build.jobs: expected a whole number, got true"),
        (GOOD + "[build]\njobs = -1", "4: build.jobs: must be at least 0, is -1"),
        (GOOD + "[build]\ntime_limit = 0", "4: build.time_limit: must be more than 0, is 0"),
        (GOOD + "[build]\nsandbox = 'yes'", "4: build.sandbox: expected true or false, got text 'yes'"),
        (GOOD + "url = 1", "3: project.url: expected text, got the number 1"),
        (GOOD + "url = 2024-01-01", "3: project.url: expected text, got the date or time 2024-01-01"),
        (GOOD + "version = 1.0", "3: project.version: expected text, got the number 1.0"),
        (GOOD + "version = '1-2'", "3: project.version: must start with a digit and hold only"),
        (GOOD + "[source]\ndirectories = 'a'", "4: source.directories: expected an array, got text 'a'"),
        (GOOD + "[source]\ncheck = 'wran'", "4: source.check: expected 'off', 'warn' or 'fail', got text 'wran'; did"),
        (GOOD + "[source]\ncheck = 1", "4: source.check: expected 'off', 'warn' or 'fail', got the number 1"),
        (GOOD + "[source]\ndirectories = [\n'a',\n'/b']", "6: source.directories[2]: must be a path inside"),
        (GOOD + "[target]\ndistro = 'el9'", "3: target: expected an array of tables ([[target]]), got a table"),
        (GOOD + "[[build]]\njobs = 1", "3: build: expected a table ([build]), got an array"),
        (
            GOOD + "[[target]]\ndistro = 'el9'\n[[target]]\n",
            "5: target[2].distro: missing; the table [[target]]",
        ),
        (GOOD + "[[target]]\ndistro = 'el9'\nkernels = []", "5: target[1].kernels: needs at least 1 entry"),
        (GOOD + "[[target]]\ndistro = 'el9'\nkernel = []", "5: target[1].kernel: unknown key; did you mean 'kernels'?"),
        (GOOD + "[[target]]\ndistro='el9'\n[[target]]\ndistro='el9'", "3: target: two targets are called 'el9'"),
        (GOOD + "[[module]]\nname='x-y'\n[[module]]\nname='x_y'", "3: module: 'x_y' is there twice"),
        (GOOD + "[kconfig]\nA = 1.5", "4: kconfig.A: expected true or false or a whole number or text, got the number"),
        (GOOD + "[kconfig]\n'A B' = 1", '4: kconfig."A B": must be the name of a kernel configuration option'),
        (GOOD + "[kconfig]\nCONFIG_A = 1", "4: kconfig.CONFIG_A: must be the name of a kernel configuration option, w"),
        (GOOD + '[kconfig]\nA = "x\\ny"', "4: kconfig.A: must be one line of printable text"),
        (GOOD + "[plugin]\nx = 1", "4: plugin.x: expected a table, got the number 1"),
        (GOOD + "[signing]\nkey = 'x'", "4: signing.key: unknown key"),
        (GOOD + "maintainer = 'me'", "3: project.maintainer: must be of the form 'Name <name@example.org>'"),
        ("project = 5", "1: project: expected a table ([project]), got the number 5"),
        (GOOD + "x =", "3: not TOML: invalid value"),
        (GOOD + "[project]", "3: not TOML: cannot declare ('project',) twice"),
        (GOOD + "name = 'again'", "3: not TOML: cannot overwrite a value"),
        (GOOD + "x = '''", "3: not TOML: expected"),
    ],
)
def test_a_mistake_in_its_place(text, said):
    [line] = mistakes(text)
    assert line.startswith(f"pkgkmod.toml:{said}")


def test_a_key_of_another_table_is_sent_there():
    assert mistakes(GOOD + "[build]\ndirectories = []") == [
        "pkgkmod.toml:4: build.directories: unknown key; it belongs in [source]"
    ]


def test_the_line_that_is_no_toml_is_shown():
    with pytest.raises(ConfigError) as caught:
        loaded(GOOD + '   url = "a" \x1b[31m"\n')
    assert caught.value.brief.startswith("pkgkmod.toml:3: not TOML: ")
    assert caught.value.details == 'url = "a" \\x1b[31m"'


def test_all_mistakes_at_once_of_all_layers(machine):
    write(machine / "etc/pkgkmod.toml", '\n[project]\nvendor = "A B"\n')
    write(machine / "home/pkgkmod.toml", "[rpm]\nbiulder = 1\n")
    said = mistakes(
        '[project]\nname = "foo"\nversion = 1\n[build]\njobs = -2\nsandbx = false\n', overrides=["source.check=x"]
    )
    assert len(said) == 6
    assert {line.split(": ", 2)[0] + " " + line.split(": ", 2)[1] for line in said} == {
        f"{machine}/etc/pkgkmod.toml:3 project.vendor",
        f"{machine}/home/pkgkmod.toml:2 rpm.biulder",
        "pkgkmod.toml:3 project.version",
        "pkgkmod.toml:5 build.jobs",
        "pkgkmod.toml:6 build.sandbx",
        "-C source.check",
    }


def test_every_file_that_is_no_toml_is_named(machine):
    write(machine / "etc/pkgkmod.toml", "[project\n")
    said = mistakes("x\n")
    assert [line.split(": not TOML")[0] for line in said if "not TOML" in line] == [
        f"{machine}/etc/pkgkmod.toml:1",
        "pkgkmod.toml:1",
    ]


def test_what_is_missing_belongs_into_the_project_file(machine):
    write(machine / "etc/pkgkmod.toml", '[project]\nvendor = "acme"\n')
    [line] = mistakes("\n[build]\n", overrides=["version=2"])
    assert line.startswith("pkgkmod.toml: project.name: missing")


# --- files that are none ---------------------------------------------------------------------------


def fault(path=Path("pkgkmod.toml")):
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value


def test_no_file():
    error = fault()
    assert error.brief == "pkgkmod.toml does not exist"
    assert "pkgkmod init" in error.hint


def test_a_folder():
    Path("pkgkmod.toml").mkdir()
    assert fault().brief == "pkgkmod.toml is a folder"


def test_a_device():
    assert fault(Path("/dev/zero")).brief == "/dev/zero is not a plain file"


def test_not_utf_8():
    Path("pkgkmod.toml").write_bytes(b'[project]\nname = "\xe4"\n')
    assert fault().brief == "pkgkmod.toml:2: not UTF-8 text"


def test_a_byte_order_mark_is_passed_over():
    Path("pkgkmod.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(Path("pkgkmod.toml")).project.project.name == "foo"


def test_too_large():
    write("pkgkmod.toml", "#" * 1024 * 1024 + "\n")
    assert "too large" in fault().brief


@pytest.mark.parametrize(
    "text", ["a=" + "[" * 5000, "a=" + "[" * 200 + "]" * 200, "[plugin." + ".".join("a" * 5000) + "]\nx=1\n"]
)
def test_nested_too_deeply(text):
    write("pkgkmod.toml", text)
    error = fault()
    assert "nested too deeply" in error.brief


@pytest.mark.parametrize("name", ["a\nb.toml", "a\x1b[31m.toml"])
def test_hostile_file_names(name):
    write(name, "x = 1\n")
    said = fault(Path(name))
    assert (said.brief + said.details).replace("\n", "").isprintable()
    assert "\n" not in said.brief


def test_an_unknown_distribution_is_told_with_the_other_mistakes(tmp_path):
    path = tmp_path / "pkgkmod.toml"
    path.write_text('[project]\nname = "foo"\nverison = "1"\n[[target]]\ndistro = "el99"\n')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "pkgkmod.toml:3: project.verison: unknown key" in caught.value.details
    assert (
        "pkgkmod.toml:5: target[1].distro: no distribution is called 'el99'; did you mean 'el9'?"
        in caught.value.details
    )
