"""Prediction of CellProfiler features from embeddings (Table 7, Figure 9)."""
