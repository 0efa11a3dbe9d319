"""Covers `codecs` and `huffman`: the choice of a codec."""

import pytest
from shard_files import noisy

from shards.format.codecs import CODECS, choose_codec, codec_named, trial_ratios


def test_the_codec_is_chosen_by_what_it_saves():
    chunks = [noisy((2, 64, 64), "uint16", seed) for seed in range(4)]
    ratios = trial_ratios(chunks)
    assert set(ratios) == set(CODECS)
    assert choose_codec(ratios).name == max(ratios, key=lambda name: ratios[name])
    assert "shuffle+zstd" not in trial_ratios([noisy((2, 64, 64), "uint8")])
    assert choose_codec({"zstd": 1.08, "none": 0.999}).name == "none"
    with pytest.raises(ValueError, match="no codec 'gzip'; there are none, lz4, zstd"):
        codec_named("gzip")
