"""Images → WebDataset tar shards → batches of crops. Imports nothing of ours."""
