"""The model held against published runs: rows in, predictions with their errors out."""
