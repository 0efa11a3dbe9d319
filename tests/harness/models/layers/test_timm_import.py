"""Covers `timm_import`: timm imports with any build of torchvision, and other import errors are not hidden."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.models.layers.timm_import import import_timm

# behaves like torchvision's CUDA wheel with a CPU build of torch: submodules load, then the shape rule of nms fails
CUDA_BUILD = """
import torch
import torchvision.extension
@torch.library.register_fake("torchvision::nms")
def meta_nms(dets, scores, iou_threshold):
    return dets
COMPLETE = True
"""


def run_fresh(code: str, *search: Path) -> None:
    path = f"import sys; sys.path[:0] = {[str(folder) for folder in search]!r}\n"
    result = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def fake_package(folder: Path, name: str, body: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(body)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder where packages shadow the installed torchvision and timm; the modules are restored afterwards."""
    installed = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("torchvision", "timm")}
    for name in installed:
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    fake_package(tmp_path, "timm", "__version__ = '1.0.25'")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("torchvision", "timm")]:
        del sys.modules[name]
    sys.modules.update(installed)


@pytest.mark.slow
def test_the_installed_timm_is_usable_in_a_fresh_interpreter() -> None:
    run_fresh(
        "from harness.models.layers.timm_import import import_timm\n"
        "block = import_timm().models.vision_transformer.ParallelScalingBlock(8, 2)\n"
        "import torch, torchvision.ops\n"
        "assert block(torch.zeros(1, 3, 8)).shape == (1, 3, 8)\n"
    )


@pytest.mark.slow
def test_a_torchvision_without_its_operators_is_imported_completely(tmp_path: Path) -> None:
    fake_package(tmp_path, "torchvision", CUDA_BUILD)
    (tmp_path / "torchvision" / "extension.py").write_text("")
    fake_package(tmp_path, "timm", "import torchvision\n__version__ = '1.0.25'")
    run_fresh(
        "try:\n    import torchvision\n    raise SystemExit('the fake must fail first')\n"
        "except RuntimeError: pass\n"
        "from harness.models.layers.timm_import import import_timm\n"
        "assert import_timm().torchvision.COMPLETE\n"
        "assert import_timm() is import_timm()\n",
        tmp_path,
    )


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("raise RuntimeError('operator torchvision::roi_align does not exist')", RuntimeError, "roi_align"),
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", ImportError, "libcudart"),
    ],
)
def test_other_errors_pass_through(fakes: Path, body: str, error: type[Exception], message: str) -> None:
    fake_package(fakes, "torchvision", body)
    with pytest.raises(error, match=message):
        import_timm()


def test_a_working_torchvision_is_not_reimported(fakes: Path) -> None:
    fake_package(fakes, "torchvision", "")
    import torchvision

    import_timm()
    assert sys.modules["torchvision"] is torchvision


@pytest.mark.parametrize("version", ["0.9.7", "1.0.24"])
def test_a_timm_of_the_other_formula_is_refused(fakes: Path, version: str) -> None:
    fake_package(fakes, "torchvision", "")
    (fakes / "timm" / "__init__.py").write_text(f"__version__ = {version!r}")
    with pytest.raises(ImportError, match=rf"timm {version} computes parallel blocks .*install timm>=1\.0\.25"):
        import_timm()


@pytest.mark.parametrize("version", ["1.0.25", "1.0.31", "1.1.0.dev0", "2.0"])
def test_later_versions_of_timm_are_accepted(fakes: Path, version: str) -> None:
    fake_package(fakes, "torchvision", "")
    (fakes / "timm" / "__init__.py").write_text(f"__version__ = {version!r}")
    assert import_timm().__version__ == version
