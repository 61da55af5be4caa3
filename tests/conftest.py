"""What every test has: the fixtures of `tests/fixtures`."""

import os

# Before anything loads gRPC: tests start processes beside its threads, and its chatter belongs in no report. It runs
# as it does under the command.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")

pytest_plugins = ["fixtures.clusters", "fixtures.standbys"]
