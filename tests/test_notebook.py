"""notebooks/scaling.ipynb runs from its first cell to its last, in a kernel of its own, and shows what it promises."""

import os
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "scaling.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra `test`)")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.delenv("STUDY", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    kernel = tmp_path / "share" / "jupyter" / "kernels" / "here"  # this interpreter, whatever kernels are installed
    kernel.mkdir(parents=True)
    argv = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernel / "kernel.json").write_text(f'{{"argv": {argv}, "display_name": "here", "language": "python"}}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="here").execute()
    shown = str([cell.get("outputs") for cell in notebook.cells])
    assert "image/png" in shown
    assert "+0.0175 ± 0.0104 per decade" in shown
    assert "two factors" in shown
    assert "'output_type': 'error'" not in shown


def test_the_notebook_is_committed_without_outputs():
    text = NOTEBOOK.read_text()
    assert '"outputs": []' in text
    assert "image/png" not in text
