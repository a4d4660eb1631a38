"""Large jobs: files in, files out; a job that was killed goes on where it was."""
