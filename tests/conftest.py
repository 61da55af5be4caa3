"""What every test has: the fixtures of `tests/fixtures`."""

import os

# Before anything loads gRPC: tests start processes beside its threads, and its chatter belongs in no report.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

pytest_plugins = ["fixtures.clusters"]
