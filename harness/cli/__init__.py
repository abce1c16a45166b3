"""The command line: verbs, wiring and exit codes; nothing is computed here."""
