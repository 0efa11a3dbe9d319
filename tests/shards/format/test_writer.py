"""The writer: any well is read back by its location and by tarfile."""

import io
import json
import tarfile

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shards as shards_package
from shards.format.writer import ShardWriter


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from(["uint8", "uint16"]),
    key=st.from_regex(r"[A-Za-z0-9_+-]{1,90}", fullmatch=True),
    text=st.text(max_size=30),
)
def test_any_well_can_be_read_back_from_its_location_and_by_tarfile(shape, dtype, key, text):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    file = io.BytesIO()
    writer = ShardWriter(file)
    entries = [writer.add(name, image, {"note": text}) for name in (key, "other" if key != "other" else "another")]
    writer.close()
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as archive:
        assert archive.getnames()[:2] == [f"{key}.zs", f"{key}.json"]
        assert np.array_equal(shards_package.decode(".zs", archive.extractfile(f"{key}.zs").read()), image)
        assert json.load(archive.extractfile(f"{key}.json")) == {"note": text}
    for entry in entries:
        assert (entry.height, entry.width, entry.pixel_type) == (*shape[1:], dtype)
        assert file.getvalue()[entry.offset :].startswith(b"wellzarr")
