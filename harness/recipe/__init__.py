"""YAML to a validated study."""
