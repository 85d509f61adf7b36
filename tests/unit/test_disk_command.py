"""Where the images of a driver disk go."""

from pathlib import Path

import pytest

from pkgkmod.cli.disk_command import copies


@pytest.mark.parametrize(
    ("wanted", "files", "places"),
    [
        ("x.iso", ["a-1.0.iso"], ["x.iso"]),
        ("x", ["a-1.0.iso"], ["x"]),
        ("x.iso", ["a-1.0.iso", "a-1.0.img", "a-1.0-initrd.img"], ["x.iso", "x.img", "x-initrd.img"]),
        # The image that has the ending is the one that was meant, whichever was asked for first.
        ("x.img", ["a-1.0-initrd.img", "a-1.0.img"], ["x-initrd.img", "x.img"]),
        ("x.iso", ["a-1.0.img", "a-1.0.iso"], ["x.img", "x.iso"]),
        ("x.dud", ["a-1.0-sle15sp6.dud", "a-1.0-sles16.dud"], ["x.dud", "x-sles16.dud"]),
        ("d/x.1.iso", ["a-1.0.iso", "a-1.0.img"], ["d/x.1.iso", "d/x.1.img"]),
    ],
)
def test_each_image_goes_to_a_place_of_its_own(wanted, files, places):
    found = copies(Path(wanted), "a-1.0", files)
    assert found == tuple(Path(place) for place in places)
    assert len(set(found)) == len(files)
