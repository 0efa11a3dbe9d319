"""Help to write a recipe: a first one from a shard set, and the page of all its fields."""
