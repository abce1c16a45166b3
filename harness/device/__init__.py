"""Chips and how to measure on them: one file per back-end behind one protocol."""
