"""What training and embedding cost, in FLOPs under named conventions."""
