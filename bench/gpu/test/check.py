"""Runs drive.py and report.py on the programs that test/run has built, and checks what they say."""

import json
import os
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))
build, programs = sys.argv[1], sys.argv[2:]
path = os.path.join(build, "rows.jsonl")
drive = subprocess.run(
    [sys.executable, os.path.join(here, "..", "drive.py"), "--quick", "--json", path, "--threads", "1,3",
     "--random-total-bytes", str(32 << 20), "--largest-mib", "1,4,16", "--timeout", "20", "--trace", os.path.join(here, "small.csv"), *programs, "/nonexistent/peer"],
    text=True, capture_output=True)
print(drive.stdout, drive.stderr, sep="")
assert drive.returncode == 0, drive.returncode
assert "1 programs did not start" in drive.stdout
with open(path, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
peers = [row["peer"] for row in rows if row["workload"] == "start" and "device" in row]
assert peers[:3] == ["malloc", "fixed", "loop"], peers


def find(workload, peer, **key):
    found = [row for row in rows if row["workload"] == workload and row["peer"] == peer and key.items() <= row.items()]
    assert len(found) == 1, (workload, peer, key, found)
    return found[0]


for peer in peers:
    if peer == "fixed":
        continue
    if peer != "loop":
        assert find("first", peer, place="first of the process")["rounds"] == 1
        row = find("first", peer, place="later")
        assert row["min"] > 0 and row["rounds"] == 5 and row["unit"] == "ms", row
    for threads in (1, 3):
        row = find("pairs", peer, threads=threads)
        assert row["min"] > 0 and row["min"] <= row["value"] <= row["max"] and row["rounds"] == 3, row
        # What was allocated was freed, and every step did one of both: 256 at least to be warm and timed, each thread's.
        assert row["allocations"] == row["frees"] and row["allocations"] > 200 * threads, row
    timed = find("replay", peer, trace="small", **{"pass": "time"})
    # Peak: 1 and 2 are asked for first, then 2 and 3; 2 is still there, at 3500 bytes asked for, when 4 comes.
    assert timed["peak_requested_bytes"] == 5000 and timed["recorded_seconds"] == 2.00008, timed
    assert (timed["allocations"], timed["frees"]) == (5, 3) and timed["value"] > 0, timed
    if peer != "loop":
        for streams, cross in ((1, 0), (2, 0), (4, 0), (8, 0), (2, 1), (4, 1), (8, 1)):
            assert find("multi_stream", peer, streams=streams, cross=cross)["allocations"] > 0
        for largest in (1, 4, 16):
            row = find("random_allocations", peer, largest_mib=largest)
            assert row["allocations"] == 1000 and row["live_max"] > 0, row
        assert "built without CUPTI" in find("replay", peer, trace="small", **{"pass": "calls"})["failed"]

# A free that completes later counts until then: 2000 + 3000 + 500 bytes at once.
assert find("replay", "malloc", **{"pass": "peak"})["value"] == 5500 / 5000
# Allocates up to half of its size, so that the largest request needs 1.25 of the peak, in steps of 2 MiB here: the first tried.
assert find("replay", "fixed", **{"pass": "time"})["initial_bytes"] == 2 << 20
# The fixed one refuses what is larger than half of 24 GiB, which nothing is; so its rows are like the others'.
assert find("pairs", "fixed", threads=1)["value"] > 0

for arguments in ([], ["--markdown"]):
    report = subprocess.run([sys.executable, os.path.join(here, "..", "report.py"), path, *arguments],
                            text=True, capture_output=True, check=True).stdout
    for title in ("first: ms", "pairs: ns per pair", "pairs, less the loop: ns", "replay, time: ms", "replay, peak: ", "multi_stream: us", "random_allocations: us"):
        assert title in report, report
    assert "failed: malloc: built without CUPTI" in report and "in: replay trace=small pass=calls" in report, report
print(report)

# Over the columns of one peer, if it has all of them; and what remains of pairs.
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(here, ".."))
from report import less_the_loop, over_all  # noqa: E402

some = [{"peer": "a", "trace": "x", "value": 1.0}, {"peer": "a", "trace": "y", "value": 4.0},
        {"peer": "b", "trace": "x", "value": 2.0}, {"peer": "b", "trace": "y", "failed": "so"}]
summary = {(row["peer"], row["trace"]): row["value"] for row in over_all(some, lambda row: row["trace"])}
assert summary == {("a", "geometric mean"): 2.0, ("a", "worst"): 4.0}, summary
paired = [{"peer": "a", "threads": 1, "value": 9.0}, {"peer": "loop", "threads": 1, "value": 2.0}, {"peer": "a", "threads": 4, "value": 9.0}]
assert less_the_loop(paired, lambda row: row["threads"]) == [{"peer": "a", "threads": 1, "value": 7.0}]
print("passed")
