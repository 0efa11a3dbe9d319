"""A tiny screen on disk, in RxRx3's layout, and a web server to serve it."""

import csv
import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.builder.build_set import build

HEADER = ["well_id", "experiment_name", "plate", "address", "gene", "treatment", "SMILES"]
HEADER += ["concentration", "perturbation_type", "cell_type"]


def _write_screen(root: Path, experiments: int = 3, wells: int = 4, size: int = 16, dtype: str = "uint8") -> Path:
    """Write `experiments` x 1 plate x `wells` wells of 6 random channels; the first well is a control."""
    random = np.random.default_rng(7)
    rows = []
    for e in range(experiments):
        experiment = f"gene-{e + 1:03d}"
        folder = root / experiment / "Plate1"
        folder.mkdir(parents=True)
        for w in range(wells):
            address = f"B{w + 2:02d}"
            treatment, gene = ("EMPTY_control", "EMPTY_control") if w == 0 else (f"G{w}_guide_1", f"G{w}")
            smiles = "CC(=O)O,[Na]" if w == 1 else ""
            rows.append(
                [f"{experiment}_1_{address}", experiment, "1", address, gene, treatment, smiles, "", "CRISPR", "HUVEC"]
            )
            for channel in range(1, 7):
                pixels = random.integers(0, np.iinfo(dtype).max, (size, size), dtype=dtype)
                Image.fromarray(pixels).save(folder / f"{address}_s1_w{channel}.png")
    with (root / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return root


@pytest.fixture
def screen(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny screen; see _write_screen for the options."""
    return lambda **options: _write_screen(tmp_path / "screen", **options)


@pytest.fixture(scope="session")
def write_screen() -> Callable[..., Path]:
    """The writer itself, for property tests that write many screens."""
    return _write_screen


@pytest.fixture(scope="session")
def set_of_62(write_screen: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """62 training wells of 31 x 2, in 9 shards of up to 7."""
    root = tmp_path_factory.mktemp("set_of_62")
    screen = write_screen(root / "screen", experiments=3, wells=31, size=20)
    build("rxrx3", screen, root / "set", wells_per_shard=7, validation_fraction=0.3, progress=False)
    return root / "set"


class WebFolder(str):
    """The URL of a served folder. A request whose path contains the first of `failures` fails and removes it."""

    failures: list[str]


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *request, failures: list[str], directory: str) -> None:
        self.failures = failures
        super().__init__(*request, directory=directory)

    def do_GET(self) -> None:
        if self.failures and self.failures[0] in self.path:
            self.failures.pop(0)
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebFolder]:
    """A web server on loopback that lists and serves `tmp_path`."""
    failures: list[str] = []
    handler = functools.partial(_Handler, failures=failures, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served = WebFolder(f"http://127.0.0.1:{server.server_port}")
    served.failures = failures
    yield served
    server.shutdown()
    server.server_close()
