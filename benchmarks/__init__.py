"""Side-by-side timings against peers: `python -m benchmarks.NAME [--json]`; dated results in results/."""
