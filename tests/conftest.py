"""What every test has: the fixtures of `tests/fixtures`."""

pytest_plugins = ["fixtures.clusters"]
