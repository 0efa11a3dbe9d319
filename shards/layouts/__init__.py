"""RxRx, JUMP-CP, load_data tables and plain folders to one table of wells."""
