"""Recall of known gene relationships (Table 6)."""
