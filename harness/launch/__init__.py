"""Grid cells to local processes or SLURM jobs, and where they stand."""
