"""From what a user writes to the frozen types the program works with."""
