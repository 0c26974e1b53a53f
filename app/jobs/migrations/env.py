"""Run by Alembic: migrate on the connection, and in the transaction, that the caller gives."""

from alembic import context

from app.jobs.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
