"""The results as a page to read."""

NOTE = """\
What the numbers stand for: an acknowledgement of hubweave means that the event is on disk (fdatasync) at home, and a
delivery that event and ledger entry are on disk at the peer, before either is answered; one sync serves a group.
nats-server 2.9 acknowledges and mirrors from memory and syncs its files every 2 minutes: what was acknowledged since
is gone with the power. hubweave also hashes, deduplicates and stamps each event; a mirror copies bytes."""


def table(results):
    lines = [f"hubweave and its peers, {results['when']}"]
    machine, options = results["machine"], results["options"]
    lines.append(f"{machine['cores']} x {machine['cpu']}, Linux {machine['kernel']}, load {machine['load_before']:.2f} before")
    lines.append(", ".join(version for version in results["versions"].values()))
    if sync := results.get("sync_ms"):
        lines.append(f"fdatasync of a 4 KiB append on this disk: p50 {sync['p50']} ms, p99 {sync['p99']} ms ({sync['n']} times)")
    if options["quick"]:
        lines.append("A quick run: it shows that the harness works, and nothing else.")
    rows = [("", "hubweave", "nats", "hubweave / nats")]
    if found := results.get("catch_up"):
        rows.append((f"catch-up of {options['events']:,} events of 1 KB, median of {options['runs']}", "", "", ""))
        rows.append(row(found, "  events a second (more is better)", "per_second", "{:,.0f}"))
        rows.append(row(found, "  events a CPU-second", "per_cpu_second", "{:,.0f}"))
        rows.append(spread(found, "  fewest to most a second"))
        rows.append(peaks(found, "  peak memory, source + target, MiB"))
    if found := results.get("live"):
        rows.append((f"live, {options['rate']:,} events a second for {options['seconds']} s, ms (less is better)", "", "", ""))
        for label, name in (("publish call to peer's subscriber", "lag_ms"), ("publish call to acknowledgement", "publish_ms")):
            for point in ("p50", "p99"):
                rows.append(nested(found, f"  {label}, {point}", name, point))
        for point in ("p50", "p99"):
            rows.append(nested(found, f"  hubweave's own histogram, {point}", "own_histogram_ms", point))
        rows.append(single(found, "  CPU-seconds of both ends", "cpu_seconds"))
        rows.append(single(found, "  events arrived", "arrived"))
        rows.append(single(found, "  generator late at most, ms", "generator_late_ms_max"))
    if found := results.get("memory"):
        if idle := found.get("idle"):
            most = max(idle["resident_mib"].values())
            rows.append((f"idle region of three after {idle['seconds']} s, MiB", f"{most}", "", ""))
            rows.append(("  CPU, % of a core", f"{idle['cpu_percent_each']}", "", ""))
        if backlog := found.get("backlog"):
            rows.append((f"backlog of {backlog['events']:,} events: source / target, MiB", "", "", ""))
            for name, value in backlog["memory_mib"].items():
                rows.append((f"  {name.replace('_', ' ')}", f"{value['source']} / {value['target']}", "", ""))
            rows.append(("  caught up, events a second", f"{backlog['per_second']:,.0f}", "", ""))
            rows.append(("  loaded before, events a second", f"{backlog['loaded_per_second']:,.0f}", "", ""))
    widths = [max(len(line[column]) for line in rows) for column in range(4)]
    lines.append("")
    for label, *cells in rows:
        text = "  ".join([label.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(cells, widths[1:])])
        lines.append(text.rstrip())
    lines += ["", NOTE]
    lines += [f"FAILED: {failure}" for failure in results["failures"]]
    return "\n".join(lines)


def row(found, label, name, form):
    cells = [form.format(found[side][name]) if side in found else "-" for side in ("hubweave", "nats")]
    return (label, *cells, f"{found['ratio'][name]:.2f}" if "ratio" in found else "")


def nested(found, label, name, point):
    cells = []
    for side in ("hubweave", "nats"):
        value = (found.get(side, {}).get(name) or {}).get(point)
        cells.append("-" if value is None else f"{value:.2f}")
    ratio = f"{found['ratio'][point]:.2f}" if name == "lag_ms" and "ratio" in found else ""
    return (label, *cells, ratio)


def single(found, label, name):
    return (label, *(str(found[side][name]) if side in found else "-" for side in ("hubweave", "nats")), "")


def spread(found, label):
    cells = []
    for side in ("hubweave", "nats"):
        rates = [run["per_second"] for run in found[side]["runs"]] if side in found else []
        cells.append(f"{min(rates):,.0f} .. {max(rates):,.0f}" if rates else "-")
    return (label, *cells, "")


def peaks(found, label):
    cells = []
    for side in ("hubweave", "nats"):
        ends = [run["peak_mib"] for run in found[side]["runs"]] if side in found else []
        most = [max(end[name] for end in ends) for name in ("source", "target")] if ends else []
        cells.append(" + ".join(f"{value:.0f}" for value in most) or "-")
    return (label, *cells, "")
