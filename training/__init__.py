"""Offline: learns the cascade and exports it. The service never imports this package."""
