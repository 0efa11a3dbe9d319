"""What the report's page shows of a study."""
