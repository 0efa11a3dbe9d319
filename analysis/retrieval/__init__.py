"""Retrieval of perturbations and of siblings in JUMP-CP (Tables 8 and 9)."""
