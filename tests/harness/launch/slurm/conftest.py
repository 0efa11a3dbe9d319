"""The fixture of commands in place of SLURM's, for every test here that asks for it."""

from slurm_stubs import stubs

__all__ = ["stubs"]
