"""The example: a checkout that four services must agree on, each with a database of its own.

Lives here: the services (`inventory`, `payment`, `delivery`, `order`, each with its tables in an .sql file beside it)
and what feeds and checks them (`orders`, `csv_orders`, `generated`, `driver`, `audit`). The services import nothing of
each other: in real life each is a repository of its own.

An order locks its customer's account in one database and its SKUs in another, in parallel. So two orders can wait for
each other, one in each database, and neither Postgres sees a deadlock. What ends that is the short lock timeout of the
participants (0.5 s): one of the two is refused as a conflict, and the `driver` sends it again as a new attempt. Those
orders are the tail of the latencies. Within one database every operation takes its rows in one fixed order.
"""
