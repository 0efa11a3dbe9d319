"""What a grid cell costs, before it runs."""
