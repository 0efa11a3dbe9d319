"""Images → WebDataset tar shards → batches of crops. Imports neither harness nor analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def decode(key: str, data: bytes) -> NDArray[np.generic] | None:
    """Decode the image of a sample, for the webdataset library: `webdataset.WebDataset(urls).decode(shards.decode)`.

    Returns a NumPy array (C, H, W) for a `.zs` member, and None for any other, which leaves it to other decoders.
    Raises ShardError if the payload is damaged.
    """
    if key.removeprefix(".") != "zs":
        return None
    from shards.format.payload import decode_payload

    return decode_payload(data)
