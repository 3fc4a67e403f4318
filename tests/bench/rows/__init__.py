"""What is measured. A module has functions that take an `Effort` and yield the table's rows as they become known."""
