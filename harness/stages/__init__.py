"""What a grid cell lacks, and running it."""
