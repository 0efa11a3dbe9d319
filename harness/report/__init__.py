"""The ledger to tables, figures and the report's page."""
