"""The shortest valid recipe, for tests of reading one."""

MINIMAL = """\
name: tiny
output: runs/tiny
datasets:
  all: {shards: shards/all}
models:
  vit_s16: {size: S, width: 48, depth: 2, heads: 3, patch: 16}
mae: {crop: 64}
grid: {models: [vit_s16], datasets: [all]}
profiles:
  laptop: {}
"""
