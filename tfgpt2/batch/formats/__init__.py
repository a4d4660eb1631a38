"""The file formats of a job, one file each."""
