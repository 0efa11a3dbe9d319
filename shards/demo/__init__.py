"""The rendered demo assay."""
