"""Parts of a grid: the largest component of a mask, and the box around it with a margin in mm."""
