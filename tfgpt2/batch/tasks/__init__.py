"""What a job does with each row, one file a task."""
