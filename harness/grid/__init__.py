"""A study's grid cells, their ids and their folders."""
