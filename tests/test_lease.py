import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import cxr_ray
from cxr_ray import lease as leases
from cxr_ray.lease import (
    LEASE_FILE,
    Heartbeat,
    acquire_lease,
    holds_lease,
    read_lease,
    release_lease,
)

# Takes the lease of each folder that a line on its input names, and says what it got.
RIVAL = """
import sys
from pathlib import Path
from cxr_ray.lease import acquire_lease
print("ready", flush=True)
for line in sys.stdin:
    lease = acquire_lease(Path(line.strip()), sys.argv[1])
    print(lease.attempt if lease else "refused", flush=True)
"""


class Rival:
    """Another driver, in a process of its own."""

    def __init__(self, driver):
        self.process = subprocess.Popen(
            [sys.executable, "-c", RIVAL, driver],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(cxr_ray.__file__).parents[1])},
        )
        assert self.hear() == "ready"

    def hear(self):
        return self.process.stdout.readline().strip()

    def tell(self, folders):
        self.process.stdin.write("".join(f"{folder}\n" for folder in folders))
        self.process.stdin.flush()

    def take(self, folder):
        self.tell([folder])
        return self.hear()


@pytest.fixture
def rival():
    """Start rivals, and end those that still live."""
    started = []

    def start(driver="rival"):
        started.append(Rival(driver))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait()
        each.process.stdin.close()
        each.process.stdout.close()


def write(folder, lease, *, silent=0.0):
    """Put a lease there that was last kept fresh ``silent`` seconds ago."""
    folder.mkdir(exist_ok=True)
    aside = folder / "aside"
    aside.write_text(json.dumps(asdict(lease)))
    then = time.time() - silent
    os.utime(aside, (then, then))
    aside.replace(folder / LEASE_FILE)  # whole at once: a heartbeat may be reading


def elsewhere(folder):
    """A lease as it would look from another host."""
    lease = acquire_lease(folder, "other")
    return replace(lease, host="another-host", pid=1, process_started="1")


def test_a_free_folder_is_made_and_taken(tmp_path):
    lease = acquire_lease(tmp_path / "running" / "abc", "me")
    assert lease == read_lease(tmp_path / "running" / "abc")
    assert (lease.driver, lease.pid) == ("me", os.getpid())
    assert holds_lease(tmp_path / "running" / "abc", lease.attempt)


def test_a_folder_that_nobody_took_is_held_by_nobody(tmp_path):
    assert read_lease(tmp_path) is None
    assert not holds_lease(tmp_path / "absent", "attempt")


def test_a_living_holder_is_not_disturbed(tmp_path, rival):
    attempt = rival().take(tmp_path)
    assert acquire_lease(tmp_path, "me") is None
    assert holds_lease(tmp_path, attempt)


def test_a_lease_is_stale_at_once_when_its_process_has_gone_from_this_host(tmp_path, rival):
    holder = rival()
    attempt = holder.take(tmp_path)
    holder.process.kill()
    holder.process.wait()
    began = time.monotonic()
    lease = acquire_lease(tmp_path, "me")
    assert lease is not None
    assert time.monotonic() - began < 30  # on another host it would be 60
    assert not holds_lease(tmp_path, attempt)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_process_that_its_parent_has_not_noticed_counts_as_gone(tmp_path, rival):
    holder = rival()
    holder.take(tmp_path)
    holder.process.kill()
    os.waitid(os.P_PID, holder.process.pid, os.WEXITED | os.WNOWAIT)
    assert acquire_lease(tmp_path, "me") is not None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_process_number_used_again_does_not_keep_a_lease_alive(tmp_path):
    lease = acquire_lease(tmp_path, "gone")
    write(tmp_path, replace(lease, process_started="1"))
    assert acquire_lease(tmp_path, "me") is not None


@pytest.mark.parametrize(("silent", "taken"), [(0, False), (50, False), (70, True)])
def test_another_hosts_lease_is_stale_after_a_minute_of_silence(tmp_path, silent, taken):
    write(tmp_path, elsewhere(tmp_path), silent=silent)
    assert (acquire_lease(tmp_path, "me") is not None) == taken


def test_exactly_one_of_those_who_race_for_a_stale_lease_wins(tmp_path, rival):
    rivals = [rival(name) for name in ("one", "two", "three")]
    folders = [tmp_path / str(number) for number in range(100)]
    for folder in folders:
        write(folder, elsewhere(folder), silent=70)
    for each in rivals:
        each.tell(folders)
    for folder in folders:
        answers = [each.hear() for each in rivals]
        (winner,) = [answer for answer in answers if answer != "refused"]
        assert holds_lease(folder, winner)


def test_a_driver_that_takes_its_own_lease_again_ends_its_earlier_attempt(tmp_path):
    first, second = acquire_lease(tmp_path, "me"), acquire_lease(tmp_path, "me")
    assert first.attempt != second.attempt
    assert not holds_lease(tmp_path, first.attempt)
    assert holds_lease(tmp_path, second.attempt)


def test_a_folder_that_its_holder_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    folder, calls, flock = tmp_path / "abc", [], leases.fcntl.flock

    def remove_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            shutil.rmtree(folder)
        flock(*arguments)

    monkeypatch.setattr(leases.fcntl, "flock", remove_first)
    lease = acquire_lease(folder, "me")
    assert holds_lease(folder, lease.attempt)


def test_a_lease_given_back_is_free_for_others(tmp_path, rival):
    lease = acquire_lease(tmp_path, "me")
    release_lease(tmp_path, lease)
    assert read_lease(tmp_path) is None
    assert rival().take(tmp_path) != "refused"


def test_giving_back_a_lost_lease_leaves_the_new_holders(tmp_path):
    lost = acquire_lease(tmp_path, "me")
    held = acquire_lease(tmp_path, "me")
    release_lease(tmp_path, lost)
    assert holds_lease(tmp_path, held.attempt)
    release_lease(tmp_path / "absent", lost)


def age(folder):
    return time.time() - (folder / LEASE_FILE).stat().st_mtime


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_heartbeat_keeps_its_leases_fresh_and_stops_when_told(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.02)
    folders = [tmp_path / "one", tmp_path / "two"]
    with Heartbeat() as heartbeat:
        for folder in folders:
            write(folder, acquire_lease(folder, "me"), silent=100)
            heartbeat.add(folder)
        assert wait_until(lambda: all(age(folder) < 50 for folder in folders))
        heartbeat.discard(folders[0])
        time.sleep(0.1)
        for folder in folders:
            write(folder, read_lease(folder), silent=100)
        assert wait_until(lambda: age(folders[1]) < 50)
        assert age(folders[0]) > 50
    write(folders[1], read_lease(folders[1]), silent=100)
    time.sleep(0.1)
    assert age(folders[1]) > 50


def test_a_heartbeat_does_not_keep_alive_what_has_been_lost_to_another_host(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.02)
    mine, lost = tmp_path / "mine", tmp_path / "lost"
    write(lost, elsewhere(lost), silent=100)
    write(mine, acquire_lease(mine, "me"), silent=100)
    with Heartbeat() as heartbeat:
        heartbeat.add(lost)
        heartbeat.add(mine)
        assert wait_until(lambda: age(mine) < 50)
        time.sleep(0.1)
    assert age(lost) > 50


def test_a_heartbeat_outlives_the_end_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.02)
    with Heartbeat() as heartbeat:
        heartbeat.add(tmp_path / "gone")
        write(tmp_path / "there", acquire_lease(tmp_path / "there", "me"), silent=100)
        heartbeat.add(tmp_path / "there")
        assert wait_until(lambda: age(tmp_path / "there") < 50)
