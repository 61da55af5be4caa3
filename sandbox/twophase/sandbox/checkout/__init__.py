"""The example: a checkout that four services must agree on, each with a database of its own.

Lives here: the services (`inventory`, `payment`, `delivery`, `order`, each with its tables in an .sql file beside it)
and what feeds and checks them (`orders`, `csv_orders`, `generated`, `driver`, `audit`). The services import nothing of
each other: in real life each is a repository of its own.
"""
