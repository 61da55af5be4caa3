"""The engine: it feeds the machines with what happens and does what they say, over the journal's port and the links."""
