"""Ranks, and the engines that share a model between them."""
