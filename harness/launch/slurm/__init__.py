"""Grid cells to SLURM job arrays, and back from SLURM's states."""
