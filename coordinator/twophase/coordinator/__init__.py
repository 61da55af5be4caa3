"""The coordinator: the machines of the protocol, the journal, the engine that drives them, what people use."""
