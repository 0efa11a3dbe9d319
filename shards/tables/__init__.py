"""Read and write tables on disk."""
