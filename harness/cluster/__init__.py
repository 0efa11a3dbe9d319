"""A study on SLURM: what is submitted, what became of it, and what runs inside a job."""
