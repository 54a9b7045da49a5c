"""Servers that smartsite brings along, so that nothing has to be installed beside it.

- `smartsite.embedded.postgres.EmbeddedPostgres`: the database.
- `smartsite.embedded.broker.EmbeddedBroker`: the MQTT broker.
- `smartsite.embedded.process.Child`: any program that must not outlive us; the two above and the
  roles of ``smartsite run`` are such.

Import from those modules. In production, name servers of your own instead (``docs/``).
"""
