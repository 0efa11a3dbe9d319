"""Where the time and memory of chosen training steps go."""
