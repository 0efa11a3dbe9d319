"""Ranks, and the engines that train one model on several ranks."""
