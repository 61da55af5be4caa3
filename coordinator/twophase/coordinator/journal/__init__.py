"""The coordinator's durable memory: one port (`port`), several stores behind it, one behaviour."""
