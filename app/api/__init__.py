"""HTTP: requests in, jobs and files out; errors become problems here and nowhere else."""
