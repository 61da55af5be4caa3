"""The hand-written half of the contract: what `.proto` files cannot say in types.

Lives here: the form of names (`names`) and the form of error details (`status`), used by the coordinator, the
participant library and the client alike. Must not live here: behaviour. Imports nothing of ours but the generated code.
"""
