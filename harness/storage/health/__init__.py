"""How a run is doing: what its hours were spent on, where it stands still, and which nodes are slow."""
