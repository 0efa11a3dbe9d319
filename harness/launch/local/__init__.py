"""Cells on this machine: their processes, what a sweep says of them, and how it is watched and cancelled."""
