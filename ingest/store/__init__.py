"""The store: pool, named queries and migrations of everything kept in PostgreSQL."""
