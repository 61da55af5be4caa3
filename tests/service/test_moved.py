"""A peer that comes back at another address: its name is asked for again as soon as the old one does not answer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("moving.py")
ISOLATED = ("unshare", "--map-root-user", "--mount")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount namespace of its own")
def test_a_peer_that_is_back_at_another_address_is_found_by_its_name(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n", encoding="ascii")
    mount = f"mount --bind {hosts} /etc/hosts"
    if subprocess.run([*ISOLATED, "sh", "-c", mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("may make no mount namespace here")
    script = f"{mount} && exec {sys.executable} {SCRIPT}"
    found = subprocess.run([*ISOLATED, "sh", "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert float(found.stdout) < 15  # gRPC's own pause would be 30 s
