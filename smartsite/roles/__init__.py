"""The roles `smartsite run` supervises: each a process, meeting the others only in PostgreSQL."""
