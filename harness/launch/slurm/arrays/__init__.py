"""Job chains as arrays of SLURM, as many as its limits leave places for."""
