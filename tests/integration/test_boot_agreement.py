"""What is predicted of modules is what real kernels do with them: not one disagreement."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pkgkmod.model.kernel import Kernel
from pkgkmod.model.prediction import LoadResult, Prediction
from pkgkmod.modules.kernelside import kernel_side
from pkgkmod.modules.kmod_deps import read_module
from pkgkmod.modules.predict import predict
from tests.fixtures.archive_modules import archive_driver
from tests.fixtures.bootkernels import booted, booting_tools, cloud_kernel, kept_kernels, kernels_here, module_sources
from tests.fixtures.machine import lacking, need, series_and_kernel

DRIVERS = (
    *("acpi-call", "bbswitch", "dahdi", "ddcci", "dpdk-kmods", "jool", "lime-forensics", "tp-smapi", "v4l2loopback"),
    *("digimend", "xtables-addons"),
)


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kept_kernels(monkeypatch)


def agrees(prediction: Prediction, result: LoadResult) -> bool:
    """Tell whether a kernel did with a module what was predicted; its own init may say what it wants."""
    if prediction.verdict == "refused":
        return result.ending == "refused" and not result.started
    return prediction.verdict == "loads" and (result.started or result.ending in ("loaded", "no device"))


def disagreements(kernel: Kernel, files: list[Path], folder: Path) -> tuple[list[str], dict[str, LoadResult]]:
    """Boot a kernel, once for all modules, and return what went otherwise than predicted."""
    report = booted(kernel, files, folder)
    assert not report.failure
    results = {result.module: result for result in report.results}
    predictions = predict([read_module(str(file)) for file in files], kernel_side(kernel))
    assert {prediction.module for prediction in predictions} == set(results)
    return [
        f"{prediction.module} in {kernel.uname_r}: predicted {prediction.verdict} "
        f"{[t.text for t in prediction.troubles[:2]]} {prediction.reasons}, "
        f"but {results[prediction.module].ending}: {results[prediction.module].reason}"
        for prediction in predictions
        if not agrees(prediction, results[prediction.module])
    ], results


def test_predictions_and_a_boot_agree(tmp_path: Path) -> None:
    booting_tools()
    release = cloud_kernel()
    (kernel,) = kernels_here(release)
    _, plain = series_and_kernel()
    ours = module_sources(release)
    # Those of the plain kernel are refused by the cloud kernel.
    others = archive_driver("acpi-call-dkms", plain).modules + archive_driver("jool-dkms", plain).modules
    wrong, results = disagreements(kernel, [ours / "good.ko", ours / "builds_on_good.ko", *others], tmp_path)
    assert not wrong
    assert results["builds_on_good"].ending == "loaded"
    assert results["jool"].ending == "refused"


@pytest.mark.slow
def test_predictions_and_boots_agree_over_many_modules_and_kernels(tmp_path: Path) -> None:
    booting_tools()
    need("dkms")
    _, plain = series_and_kernel()
    files = [module for name in DRIVERS for module in archive_driver(f"{name}-dkms", plain).modules]
    assert len(files) >= 9
    base = plain.removesuffix("-amd64")
    abi = re.compile(r"-(\d+)-amd64$").search(plain)
    assert abi
    neighbours = [plain.replace(abi[0], f"-{int(abi[1]) - step}-amd64") for step in (1, 2, 3)]
    kernels = kernels_here(
        plain, *neighbours, f"{base}-cloud-amd64", f"{base}-rt-amd64", "newest of 6.12.*+deb12-amd64"
    )
    if len(kernels) < 4:
        lacking(f"only {len(kernels)} kernels are to be had")
    wrong: list[str] = []
    loaded: dict[str, int] = {}
    for kernel in kernels:
        folder = tmp_path / kernel.uname_r
        folder.mkdir()
        found, results = disagreements(kernel, files, folder)
        wrong += found
        loaded[kernel.uname_r] = sum(agrees_to_load(result) for result in results.values())
        # It needs a symbol that no kernel exports.
        assert results["dahdi_echocan_oslec"].ending == "refused"
    assert not wrong
    assert loaded[plain] == len(files) - 1
    # Neither all the same nor all different: both verdicts were put to the test.
    assert 0 in loaded.values()


def agrees_to_load(result: LoadResult) -> bool:
    """Tell whether a kernel took a module."""
    return result.started or result.ending in ("loaded", "no device")
