"""The library a service imports to take part in transactions: it declares operations; branches, ledger and gRPC follow.

    from twophase.participant import Participant, Refused

Never imports the coordinator.
"""
