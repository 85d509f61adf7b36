import random

import pytest

from pkgkmod.model.kernel import KernelRelease

RELEASES = [
    # uname -r, version, series, flavour, as an rpm version, as part of an rpm release
    (
        "5.14.0-427.13.1.el9_4.x86_64",
        "5.14.0",
        "5.14",
        "",
        "5.14.0-427.13.1.el9_4.x86_64",
        "5.14.0_427.13.1.el9_4",
    ),
    (
        "5.14.0-427.el9.aarch64+64k",
        "5.14.0",
        "5.14",
        "64k",
        "5.14.0-427.el9.aarch64+64k",
        "5.14.0_427.el9.aarch64+64k",
    ),
    (
        "6.4.0-150600.23.47-default",
        "6.4.0",
        "6.4",
        "default",
        "6.4.0-150600.23.47_default",
        "6.4.0_150600.23.47_default",
    ),
    ("6.12.0-160000.5-64kb", "6.12.0", "6.12", "64kb", "6.12.0-160000.5_64kb", "6.12.0_160000.5_64kb"),
    ("6.16.0-rc1-1-default", "6.16.0", "6.16", "default", "6.16.0-rc1_1_default", "6.16.0_rc1_1_default"),
    ("6.1.0-56-amd64", "6.1.0", "6.1", "amd64", "6.1.0-56_amd64", "6.1.0_56_amd64"),
    (
        "6.12.117+deb12-cloud-amd64",
        "6.12.117",
        "6.12",
        "cloud-amd64",
        "6.12.117+deb12-cloud_amd64",
        "6.12.117+deb12_cloud_amd64",
    ),
    ("6.1.0-56-rt-amd64", "6.1.0", "6.1", "rt-amd64", "6.1.0-56_rt_amd64", "6.1.0_56_rt_amd64"),
]


@pytest.mark.parametrize(("uname_r", "version", "series", "flavour", "rpm_version", "rpm_suffix"), RELEASES)
def test_a_release_of_each_family(uname_r, version, series, flavour, rpm_version, rpm_suffix):
    release = KernelRelease(uname_r)
    assert (release.version, release.series, release.flavour) == (version, series, flavour)
    assert (release.rpm_version, release.rpm_suffix) == (rpm_version, rpm_suffix)
    assert release.rpm_version.count("-") <= 1


@pytest.mark.parametrize(
    ("uname_r", "base"),
    [
        ("5.14.0-427.el9.x86_64", "5.14.0-427.el9.x86_64"),
        ("6.4.0-150600.23.47-default", "6.4.0-150600.23.47"),
        ("6.12.117+deb12-cloud-amd64", "6.12.117+deb12"),
        ("6.16.0-rc1-1-default", "6.16.0-rc1-1"),
        ("6.6.30", "6.6.30"),
    ],
)
def test_what_all_flavours_share(uname_r, base):
    assert KernelRelease(uname_r).base == base


@pytest.mark.parametrize("text", ["", "linux", "6.1.0-56 amd64", "6.1.0/../x", "6.1.0-$(id)", "6.1.0-56\n", "6.1..0"])
def test_what_is_no_release_is_refused(text):
    with pytest.raises(ValueError, match="not a kernel release"):
        KernelRelease(text)


def test_releases_sort_by_age():
    ordered = [
        "5.10.0-9-amd64",
        "6.1.0-9-amd64",
        "6.1.0-56-amd64",
        "6.12.9+deb12-amd64",
        "6.12.117+deb12-amd64",
    ]
    mixed = random.Random(7).sample(ordered, len(ordered))
    assert [str(r) for r in sorted(map(KernelRelease, mixed))] == ordered
