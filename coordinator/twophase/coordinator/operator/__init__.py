"""What the command line tells an operator: one module a verb, and what they share. Imported when a verb runs."""
