"""Runs the study: recipe → grid → plan → launch → train → embed → evaluate → ledger → report."""
