"""The durable queue: the table is the truth. Knows no images."""
