"""The best model size over a life of training and embedding, from the joint laws of a study's runs."""
