"""Copy the packages at submission, so that jobs run that code; the copy is named by its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from harness.storage.atomic import write_json

PACKAGES = ("harness", "shards", "analysis")
ROOT = Path(__file__).resolve().parents[3]


def snapshot(output: Path) -> Path:
    """Copy the packages to `<output>/code/<digest>/` unless they are there, and return that folder.

    `provenance.json` next to them has the commit and the uncommitted changes.
    """
    files = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*") if _is_code(path))
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    folder = output.resolve() / "code" / digest.hexdigest()[:16]
    if not (folder / "provenance.json").exists():
        _copy(files, folder)
        write_json(folder / "provenance.json", {"digest": digest.hexdigest(), **_provenance()})
    return folder


def _is_code(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"


def _copy(files: list[Path], folder: Path) -> None:
    """Copy to a temporary folder and rename it, so that a job never sees an incomplete copy."""
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    for path in files:
        target = building / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    shutil.rmtree(folder, ignore_errors=True)  # a copy whose process died before it wrote the provenance
    building.rename(folder)


def _provenance() -> dict[str, str | None]:
    """The commit and the uncommitted changes; both None outside a git checkout."""
    return {"commit": _git("rev-parse", "HEAD"), "diff": _git("diff", "HEAD", "--", *PACKAGES)}


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
