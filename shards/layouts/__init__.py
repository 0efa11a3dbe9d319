"""Readers of RxRx, JUMP-CP, load_data tables and plain folders, which give one table of wells."""
