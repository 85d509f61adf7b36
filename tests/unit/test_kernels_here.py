"""The kernels of the store are known without any archive; records and trees are stand-ins."""

import json

import pytest

from pkgkmod.kernels.here import stored_kernels
from pkgkmod.kernels.store import Store

RECORD = {
    "release": "6.1.0-1-amd64",
    "arch": "x86_64",
    "tree": "/usr/src/linux-headers-6.1.0-1-amd64",
    "also_needs": [],
    "compiler": {"family": "gcc", "major": 12, "text": "gcc 12"},
    "mounts": [["abc/root/usr/src/linux-headers-6.1.0-1-amd64", "/usr/src/linux-headers-6.1.0-1-amd64"]],
}


@pytest.fixture
def store(tmp_path):
    (tmp_path / "known").mkdir()
    place = tmp_path / "packages" / RECORD["mounts"][0][0]
    place.mkdir(parents=True)
    (place / ".config").touch()
    return Store(tmp_path)


def remember(store, record, name="one"):
    (store.folder / "known" / f"{name}.json").write_text(record if isinstance(record, str) else json.dumps(record))


def test_a_kernel_of_the_store(store):
    remember(store, RECORD)
    (kernel,) = stored_kernels(store)
    assert (kernel.uname_r, kernel.arch, kernel.identity) == ("6.1.0-1-amd64", "x86_64", "one")
    assert kernel.place == store.folder / "packages" / RECORD["mounts"][0][0]
    assert kernel.compiler.major == 12


@pytest.mark.parametrize(
    "record",
    ["", "[]", "{}", {**RECORD, "release": "../.."}, {**RECORD, "mounts": [1]}, {**RECORD, "tree": "/nowhere"}],
)
def test_what_is_damaged_or_gone_is_left_out(store, record):
    remember(store, record)
    assert list(stored_kernels(store)) == []
