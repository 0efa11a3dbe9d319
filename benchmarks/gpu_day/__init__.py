"""Everything that must be measured on a GPU, in sections that are run once each and resumed over several runs."""
