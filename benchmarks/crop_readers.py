"""What `benchmarks.loader` compares: our loader and its peers', each as a set on disk and an endless reader of crops.

All yield the same: one uint8 crop (C, 256, 256) at a random place with random flips, and its exact means and standard
deviations per channel. Peers read a complete image for it, as their documentation shows.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.builder.build_set import build
from shards.loader.batches import training_batches
from shards.reader.shard_set import ShardSet

CROP, BATCH = 256, 256
Image = NDArray[np.uint8]
PER_CHUNK = 4  # images in one of a peer's files


@dataclass(frozen=True)
class CropReader:
    """`prepare` writes a set from a folder of wells; `crops` reads from it endlessly and yields counts of crops."""

    name: str
    module: str
    prepare: Callable[[Path, Path], None]
    crops: Callable[[Path, int], Iterator[int]]  # folder, threads
    per_read: int = 1

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    @property
    def folder(self) -> str:
        return self.prepare.__name__


def images(root: Path) -> Iterator[tuple[str, Image]]:
    """The wells of `benchmarks.builder.write_wells`, (C, H, W) each."""
    for name in sorted({file.name.partition("_")[0] for file in root.glob("*.npy")}):
        yield name, np.stack([np.load(file) for file in sorted(root.glob(f"{name}_c*.npy"))])


def cut(image: Image, random: np.random.Generator) -> tuple[Image, NDArray[np.float32], NDArray[np.float32]]:
    """A crop, flipped, with its means and standard deviations, (C,) each."""
    y, x = (int(random.integers(0, side - CROP + 1)) for side in image.shape[1:])
    vertical, horizontal = random.integers(0, 2, 2)
    crop = np.ascontiguousarray(
        image[:, y : y + CROP, x : x + CROP][:, :: -1 if vertical else 1, :: -1 if horizontal else 1]
    )
    flat = crop.reshape(len(crop), -1).astype(np.float32)
    mean = flat.mean(1)
    return crop, mean, np.sqrt(np.einsum("cp,cp->c", flat, flat) / flat.shape[1] - mean**2)


def ours(codec: str) -> tuple[Callable[[Path, Path], None], Callable[[Path, int], Iterator[int]]]:
    """Our set with one codec."""

    def prepare(root: Path, output: Path) -> None:
        channels = len(next(images(root))[1])
        options = {"pattern": "{file}_c{channel}.npy", "channels": ",".join(map(str, range(channels)))}
        build(
            "folder", root, output, options=options, wells_per_shard=PER_CHUNK, codec=codec, validation_fraction=0,
            progress=False,
        )  # fmt: skip

    def crops(folder: Path, threads: int) -> Iterator[int]:
        shards = ShardSet.open(folder)
        batches = training_batches(
            shards, shards.indices("train"), crop=CROP, batch=BATCH, seed=0, first_batch=0, last_batch=1 << 40,
            workers=threads, sums=True,
        )  # fmt: skip
        for batch in batches:
            batch.moments()
            yield len(batch.images)

    prepare.__name__ = f"ours-{codec}"
    return prepare, crops


def _tar(encode: Callable[[Image], dict[str, Any]], name: str) -> Callable[[Path, Path], None]:
    def prepare(root: Path, output: Path) -> None:
        import webdataset

        output.mkdir()
        with webdataset.ShardWriter(str(output / "%06d.tar"), maxcount=PER_CHUNK, verbose=0) as writer:
            for key, image in images(root):
                writer.write({"__key__": key, **encode(image)})

    prepare.__name__ = name
    return prepare


def _npy(image: Image) -> dict[str, Any]:
    return {"npy": image}


def _tiff(image: Image) -> dict[str, Any]:
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, image, compression="zstd", photometric="minisblack")
    return {"tiff": file.getvalue()}


def _png(image: Image) -> dict[str, Any]:
    from PIL import Image as Pillow

    members = {}
    for channel, plane in enumerate(image):
        file = io.BytesIO()
        Pillow.fromarray(plane).save(file, "png")
        members[f"c{channel}.png"] = file.getvalue()
    return members


def _read_tiff(sample: dict[str, Any]) -> Image:
    import tifffile

    return np.asarray(tifffile.imread(io.BytesIO(sample["tiff"])))


def _read_png(sample: dict[str, Any]) -> Image:
    from PIL import Image as Pillow

    names = sorted(name for name in sample if name.endswith(".png"))
    return np.stack([np.asarray(Pillow.open(io.BytesIO(sample[name]))) for name in names])


def _webdataset(read: Callable[[dict[str, Any]], Image]) -> Callable[[Path, int], Iterator[int]]:
    def crops(folder: Path, threads: int) -> Iterator[int]:
        import webdataset

        urls, random = [str(path) for path in sorted(folder.glob("*.tar"))], np.random.default_rng(0)
        while True:
            for sample in webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(PER_CHUNK).map(read):
                cut(sample, random)
                yield 1

    return crops


def _read_npy(sample: dict[str, Any]) -> Image:
    return np.asarray(np.load(io.BytesIO(sample["npy"])))


def streaming_set(root: Path, output: Path) -> None:
    """mosaicml-streaming, uncompressed."""
    from streaming import MDSWriter

    shape = next(images(root))[1].shape
    columns = {"image": f"ndarray:uint8:{','.join(map(str, shape))}"}
    with MDSWriter(out=str(output), columns=columns, size_limit=PER_CHUNK * int(np.prod(shape))) as writer:
        for _, image in images(root):
            writer.write({"image": image})


def litdata_set(root: Path, output: Path) -> None:
    """litdata, uncompressed."""
    import litdata

    names = sorted({str(file).rpartition("_")[0] for file in root.glob("*.npy")})
    litdata.optimize(fn=_stacked, inputs=names, output_dir=str(output), chunk_size=PER_CHUNK, num_workers=1)


def _stacked(stem: str) -> dict[str, Any]:
    path = Path(stem)
    return {"image": np.stack([np.load(file) for file in sorted(path.parent.glob(f"{path.name}_c*.npy"))])}


def _library(module: str, per_read: int, **options: Any) -> Callable[[Path, int], Iterator[int]]:  # noqa: ANN401
    def crops(folder: Path, threads: int) -> Iterator[int]:
        library, random = importlib.import_module(module), np.random.default_rng(0)
        place = {"local": str(folder)} if module == "streaming" else {"input_dir": str(folder)}
        data = library.StreamingDataset(**place, shuffle=True, **options)
        while True:
            for sample in data:
                for _ in range(per_read):
                    cut(np.asarray(sample["image"]), random)
                yield per_read

    return crops


LOSSLESS, PLAIN, LZ4 = "delta+zstd", "none", "lz4"
OURS = [CropReader(f"ours, {codec}", "shards", *ours(codec)) for codec in (LOSSLESS, LZ4, PLAIN)]
PEERS = [
    CropReader("webdataset, raw arrays", "webdataset", _tar(_npy, "npy"), _webdataset(_read_npy)),
    CropReader("webdataset, TIFF zstd", "webdataset", _tar(_tiff, "tiff"), _webdataset(_read_tiff)),
    CropReader("webdataset, PNG", "webdataset", _tar(_png, "png"), _webdataset(_read_png)),
    CropReader("mosaicml-streaming, raw", "streaming", streaming_set, _library("streaming", 1, batch_size=8)),
    CropReader("mosaicml-streaming, raw, 8 crops per read", "streaming", streaming_set,
              _library("streaming", 8, batch_size=8), 8),
    CropReader("litdata, raw", "litdata", litdata_set, _library("litdata", 1)),
    CropReader("litdata, raw, 8 crops per read", "litdata", litdata_set, _library("litdata", 8), 8),
]  # fmt: skip
