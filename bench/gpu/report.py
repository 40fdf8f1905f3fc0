"""Tables of what drive.py wrote, one a workload, with ratios to Aquifer. Standard library only."""

import argparse
import json
import statistics
import sys
from collections import defaultdict

REFERENCE = "aquifer"
# What tells the rows of a workload apart.
KEYS = ("place", "threads", "trace", "pass", "streams", "cross", "largest_mib")


def cell(row, reference):
    """A row's value, and how many times Aquifer's it is."""
    if row is None:
        return "-"
    if "value" not in row:
        return "failed"
    value = row["value"]
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 10 else 3
    text = f"{value:,.{digits}f}"
    if reference and row is not reference and reference.get("value"):
        text += f" ({value / reference['value']:.2f} x)"
    return text + (" !" if "failed" in row else "")


def table(rows, column_of, peers):
    """Lines of cells: peers by the columns that `column_of(row)` names. The first line is the head."""
    columns, cells = [], {}
    for row in rows:
        column = column_of(row)
        if column not in columns:
            columns.append(column)
        cells[row["peer"], column] = row
    lines = [["peer", *columns]]
    for peer in peers:
        if any((peer, column) in cells for column in columns):
            lines.append([peer, *(cell(cells.get((peer, column)), cells.get((REFERENCE, column))) for column in columns)])
    return lines


def less_the_loop(rows, column_of):
    """The rows of the other peers, without what the loop takes by itself."""
    loop = {column_of(row): row["value"] for row in rows if row["peer"] == "loop" and "value" in row}
    return [{**row, "value": max(row["value"] - loop[column_of(row)], 0)} for row in rows
            if row["peer"] != "loop" and "value" in row and column_of(row) in loop]


def over_all(rows, column_of):
    """Two more rows for each peer that has a value in every column, under other names than traces have."""
    columns = {column_of(row) for row in rows}
    values = defaultdict(list)
    for row in rows:
        if "value" in row:
            values[row["peer"]].append(row["value"])
    complete = {peer: of_peer for peer, of_peer in values.items() if len(of_peer) == len(columns) > 1}
    return [{"peer": peer, "trace": name, "value": over(of_peer)}
            for name, over in (("geometric mean", geometric_mean), ("worst", max)) for peer, of_peer in complete.items()]


def geometric_mean(values):
    return statistics.geometric_mean(values) if min(values) > 0 else 0


def tables(rows):
    """Each with its title."""
    peers = list(dict.fromkeys(row["peer"] for row in rows if row["workload"] != "start"))
    peers.sort(key=lambda peer: (not peer.startswith(REFERENCE), peer == "loop"))
    by_kind = defaultdict(list)
    for row in rows:
        if row["workload"] == "multi_stream":
            kind = "multi_stream, used by a second stream" if row["cross"] else "multi_stream"
        else:
            kind = f"replay, {row['pass']}" if row["workload"] == "replay" else row["workload"]
        by_kind[kind].append(row)
    column_of = {"first": lambda row: row["place"], "pairs": lambda row: f"{row['threads']} threads", "replay": lambda row: row["trace"],
                 "multi_stream": lambda row: f"{row['streams']} streams",
                 "random_allocations": lambda row: f"up to {row['largest_mib']} MiB"}
    for kind, of_kind in by_kind.items():
        if kind == "start":
            continue
        unit = next((row["unit"] for row in of_kind if "unit" in row), "nothing measured")
        column = column_of[of_kind[0]["workload"]]
        summary = over_all(of_kind, column) if kind in ("replay, peak", "replay, calls") else []
        yield f"{kind}: {unit}", table(of_kind + summary, column, peers)
        if kind == "pairs":
            yield f"pairs, less the loop: {unit}", table(less_the_loop(of_kind, column), column, peers)
        counted = [{**row, "value": row["driver_calls"]} for row in of_kind if "driver_calls" in row]
        if counted:
            yield "replay, how many calls of the driver", table(counted, column_of["replay"], peers)


def show(lines, markdown):
    if markdown:
        print("| " + " | ".join(lines[0]) + " |\n|" + " --- |" * len(lines[0]))
        print("\n".join("| " + " | ".join(line) + " |" for line in lines[1:]))
        return
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    for line in lines:
        first, *others = (text.ljust(width) if index == 0 else text.rjust(width)
                          for index, (text, width) in enumerate(zip(line, widths)))
        print("  ".join([first, *others]).rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="tables as markdown has them")
    parser.add_argument("rows", help="what drive.py --json wrote")
    options = parser.parse_args()
    with open(options.rows, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        if row["workload"] == "start" and "device" in row:
            print(f"{'- ' if options.markdown else ''}{row['peer']}: {row['description']}; {row['device']}")
    for title, lines in tables(rows):
        print(f"\n{'### ' if options.markdown else ''}{title}" + ("\n" if options.markdown else ""))
        show(lines, options.markdown)
    reasons = defaultdict(list)
    for row in rows:
        if "failed" in row:
            key = " ".join(f"{name}={row[name]}" for name in KEYS if name in row)
            reasons[row["peer"], " ".join(row["failed"].split())[:300]].append(f"{row['workload']} {key}".strip())
    for (peer, reason), places in reasons.items():
        print(f"\nfailed: {peer}: {reason}\n  in: {', '.join(places)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
