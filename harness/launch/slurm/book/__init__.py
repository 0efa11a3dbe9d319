"""What is known of a study's jobs: the book of what was submitted, and the evidence of jobs that are not in it."""
