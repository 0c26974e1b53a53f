"""Voxels to labels. Knows no files but the networks, no jobs, no HTTP."""
