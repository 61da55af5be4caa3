"""A participant without Postgres: seats of a show, kept in SQLite, which stands for any store with local transactions.

Try, confirm, cancel (TCC) by the contract of two-phase commit: to prepare is to reserve the seats, to commit is to sell
them, to abort is to let them go. Written from protos/twophase/v1/*.proto alone: nothing is imported but the generated
code, gRPC and the standard library, so that it can be copied, and read by those who write one in another language.

`theatre` is the business, `ledger` and `store` keep the branches beside it, `names` and `service` speak the contract,
`main` is the process.
"""
