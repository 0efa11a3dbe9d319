"""Run grid cells as local processes or SLURM jobs, and report their status."""
