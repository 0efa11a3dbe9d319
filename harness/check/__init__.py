"""What is wrong with a study, found before its first cell runs, in the words of its recipe."""
