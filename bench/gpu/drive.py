"""Runs the peers' programs side by side: rounds over the peers, not peer after peer. Standard library only.

Each program is a process that measures when told to; programs that wait do nothing. A row of the output is one measurement of one
peer: the median over the rounds, with the least and the most.
"""

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time

GIB = 1 << 30
# What allocators that can begin with memory begin with, but in replays: more than is ever live.
INITIAL_BYTES = 24 * GIB
# Sizes tried in turn, over the peak requested, for an allocator that cannot grow.
FIXED_SIZES = [1.05, 1.125, 1.25, 1.5, 2, 3, 4]


class Ended(Exception):
    """The process is no more."""


class Program:
    """One program with the peers in it, started when it is needed, and again after a failure."""

    def __init__(self, path, environment, timeout_s):
        self.path, self.timeout_s = path, timeout_s
        # An empty value is no value: some programs tell them apart.
        self.environment = {name: value for name, value in {**os.environ, **environment}.items() if value}
        self.process, self.has_measured = None, False
        self.hello = self.start()

    def start(self):
        self.has_measured = False
        self.process = subprocess.Popen(
            [self.path], env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.lines, self.complaints = queue.Queue(), []
        threading.Thread(target=self.read, args=(self.process, self.lines), daemon=True).start()
        threading.Thread(target=self.complain, args=(self.process, self.complaints), daemon=True).start()
        return self.answer()

    @staticmethod
    def read(process, lines):
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    @staticmethod
    def complain(process, complaints):
        complaints.extend(process.stderr)

    def answer(self):
        try:
            line = self.lines.get(timeout=self.timeout_s)
        except queue.Empty:
            self.end()
            raise Ended(f"no answer within {self.timeout_s} s") from None
        if line is None:
            status = self.process.wait()
            self.process = None
            raise Ended(f"the process ended with status {status}: {''.join(self.complaints)[:400].strip()}")
        return json.loads(line)

    def measure(self, workload, peer, arguments):
        words = " ".join([workload, f"peer={peer}", *(f"{name}={value}" for name, value in arguments.items())])
        try:
            if self.process is None:
                self.start()
            self.has_measured = True
            self.process.stdin.write(words + "\n")
            self.process.stdin.flush()
            row = self.answer()
            if "failed" in row:
                self.end()
            return row
        except (Ended, OSError) as failure:
            self.end()
            return {"failed": str(failure)}

    def end(self):
        """Ends the process, and waits for that."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Bench:
    def __init__(self, programs, out, options):
        self.programs, self.out, self.options = programs, out, options
        self.peers = [(peer, program) for program in programs for peer in program.hello["peers"]]
        self.failed_count = 0

    def row(self, workload, peer, key, rounds):
        """Writes one row: `key` says what was measured, `rounds` are the answers."""
        row = {"workload": workload, "peer": peer, **key}
        good = [one for one in rounds if "failed" not in one]
        if good:
            values = [one["value"] for one in good]
            row |= {name: value for name, value in good[-1].items() if name not in ("value", "unit")}
            row |= {"value": statistics.median(values), "unit": good[-1]["unit"], "min": min(values), "max": max(values),
                    "rounds": len(values)}
        failures = [one["failed"] for one in rounds if "failed" in one]
        if failures:
            row["failed"] = failures[0]
            row["failed_rounds"] = len(failures)
            self.failed_count += 1
            print(f"FAILED {workload} {peer} {key}: {failures[0]}", file=sys.stderr, flush=True)
        self.out.write(json.dumps(row) + "\n")
        self.out.flush()

    def rounds(self, workload, key, count, arguments_of):
        """Measures every peer once, then every peer again. `arguments_of(peer, round)` is None for a peer left out."""
        answers = {peer["peer"]: [] for peer, _ in self.peers}
        for round_index in range(count):
            for peer, program in self.peers:
                name = peer["peer"]
                arguments = arguments_of(peer, round_index)
                # What has failed twice will again.
                if arguments is None or sum("failed" in one for one in answers[name]) >= 2:
                    continue
                answers[name].append(program.measure(workload, name, arguments))
        for name, rounds in answers.items():
            if rounds:
                self.row(workload, name, key, rounds)

    def first(self):
        def arguments(peer):
            return self.skip_loop(peer, {"bytes": 1 << 20, "initial_bytes": INITIAL_BYTES if peer["is_fixed"] else 0})

        for peer, program in self.peers:
            if arguments(peer) is not None:
                if program.has_measured:
                    program.end()
                answer = program.measure("first", peer["peer"], arguments(peer))
                self.row("first", peer["peer"], {"place": "first of the process"}, [answer])
        self.rounds("first", {"place": "later"}, 5 if self.options.quick else 9, lambda peer, _: arguments(peer))

    def pairs(self):
        for threads in self.options.threads:
            count = 3 if self.options.quick else 7 if threads == 1 else 5
            seconds = 0.06 if self.options.quick else 0.2
            self.rounds("pairs", {"threads": threads}, count, lambda peer, index: {
                "threads": threads, "seconds": seconds, "seed": 42 + index, "initial_bytes": INITIAL_BYTES})

    def replay(self):
        for index, path in enumerate(self.options.traces):
            trace = os.path.basename(path).removesuffix(".csv")
            sizes = self.fixed_sizes(path, trace)

            def arguments(peer, wanted):
                if peer["peer"] == "loop" and wanted != "time":
                    return None
                if peer["is_fixed"] and sizes[peer["peer"]] is None:
                    return None
                return {"path": path, "pass": wanted, "initial_over_peak": sizes.get(peer["peer"], 0)}

            for wanted, count in (("time", 1 if self.options.quick else 3), ("peak", 1)):
                self.rounds("replay", {"trace": trace, "pass": wanted}, count, lambda peer, _: arguments(peer, wanted))
            if self.options.no_calls:
                continue
            # In processes of their own, so that no timed pass has had the counter in it.
            for peer, program in self.peers:
                asked = arguments(peer, "calls")
                is_left_out = self.options.quick and index > 0 and not peer["peer"].startswith("aquifer")
                if asked is not None and not is_left_out:
                    program.end()
                    answer = program.measure("replay", peer["peer"], asked)
                    program.end()
                    self.row("replay", peer["peer"], {"trace": trace, "pass": "calls"}, [answer])

    def fixed_sizes(self, path, trace):
        """For each allocator that cannot grow, the first size tried in which the trace completes."""
        sizes = {}
        for peer, program in self.peers:
            name = peer["peer"]
            if not peer["is_fixed"]:
                continue
            for size in FIXED_SIZES:
                answer = program.measure("replay", name, {"path": path, "pass": "time", "initial_over_peak": size})
                sizes[name] = size if "failed" not in answer else None
                if sizes[name] is not None:
                    break
            else:
                self.row("replay", name, {"trace": trace, "pass": "peak"}, [answer])
        return sizes

    def multi_stream(self):
        count = 2 if self.options.quick else 5
        for cross, all_streams in ((0, [1, 2, 4, 8]), (1, [2, 4, 8])):
            for streams in all_streams:
                self.rounds("multi_stream", {"streams": streams, "cross": cross}, count, lambda peer, index: self.skip_loop(peer, {
                    "streams": streams, "cross": cross, "count": 2000, "seconds": 0.3, "seed": 7 + index,
                    "initial_bytes": INITIAL_BYTES}))

    def random_allocations(self):
        count = 2 if self.options.quick else 3
        for largest_mib in self.options.largest_mib:
            self.rounds("random_allocations", {"largest_mib": largest_mib}, count, lambda peer, index: self.skip_loop(peer, {
                "count": 1000, "largest_bytes": largest_mib << 20, "total_bytes": self.options.random_total_bytes,
                "seed": 11 + 2 * index, "initial_bytes": INITIAL_BYTES}))

    @staticmethod
    def skip_loop(peer, arguments):
        return None if peer["peer"] == "loop" else arguments


WORKLOADS = ["first", "pairs", "replay", "multi_stream", "random_allocations"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", required=True, metavar="PATH", help="where the rows go, one a line")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", default=",".join(WORKLOADS), help="workloads, with commas (default: %(default)s)")
    parser.add_argument("--threads", default="1,4,8,16", help="thread counts of pairs (default: %(default)s)")
    parser.add_argument("--trace", action="append", default=[], dest="traces", metavar="CSV", help="to replay; may be repeated")
    parser.add_argument("--no-calls", action="store_true", help="do not count calls of the driver")
    parser.add_argument("--random-total-bytes", type=int, default=16 * GIB, help="most that random_allocations has live")
    parser.add_argument("--largest-mib", metavar="SIZES",
                        help="largest sizes of random_allocations (default: 1,4,64,256,1024; quick: 1,64,1024)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds after which a measurement has failed")
    parser.add_argument("programs", nargs="+", metavar="PROGRAM", help="[NAME=VALUE,…]path of a program, with variables of its environment; empty ones are unset")
    options = parser.parse_args()
    options.threads = [int(count) for count in options.threads.split(",")]
    sizes = options.largest_mib or ("1,64,1024" if options.quick else "1,4,64,256,1024")
    options.largest_mib = [int(mib) for mib in sizes.split(",")]
    unknown = set(options.only.split(",")) - set(WORKLOADS)
    if unknown:
        parser.error(f"there are no workloads {unknown}")

    begin, programs, lost = time.monotonic(), [], 0
    with open(options.json, "w", encoding="utf-8") as out:
        for text in options.programs:
            *variables, path = text.split(",")
            environment = dict(variable.split("=", 1) for variable in variables)
            try:
                programs.append(Program(path, environment, options.timeout))
            except (Ended, OSError) as failure:
                lost += 1
                print(f"SKIPPED {text}: {failure}", file=sys.stderr, flush=True)
                out.write(json.dumps({"workload": "start", "peer": os.path.basename(path), "failed": str(failure)}) + "\n")
                continue
            hello = programs[-1].hello
            for peer in hello["peers"]:
                print(f"{peer['peer']}: {peer['description']} ({hello['device']})", flush=True)
                out.write(json.dumps({"workload": "start", "device": hello["device"], **peer}) + "\n")
        bench = Bench(programs, out, options)
        try:
            for workload in WORKLOADS:
                if workload in options.only.split(","):
                    getattr(bench, workload)()
                    print(f"{workload}: done after {time.monotonic() - begin:.0f} s", flush=True)
        finally:
            for program in programs:
                program.end()
    print(f"{len(bench.peers)} peers measured, {lost} programs did not start, {bench.failed_count} rows failed", flush=True)
    return 0 if programs else 1


if __name__ == "__main__":
    sys.exit(main())
