"""Many products at once: a table of them, a run for each row, and an index of the pages."""
