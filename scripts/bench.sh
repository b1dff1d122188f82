#!/usr/bin/env bash
# bench.sh: runs every benchmark that prints ratios, writing JSON to
# COUNTERSIGN_BENCH_OUT. Figures are ratios within one run: these mean
# something on a busy machine, absolute ones do not.
set -euo pipefail
: "${COUNTERSIGN_BENCH_OUT:?set it to a directory}"
run() { # TITLE PACKAGE PATTERN BENCHTIME
  printf '\n== %s\n' "$1"
  go test -count=1 -timeout 60m -run '^$' -bench "$3" -benchtime "$4" "$2" | tee "$COUNTERSIGN_BENCH_OUT/$(basename "$2")-${3//[^A-Za-z]/}.txt"
}
run "decisions: flat in the number of policies" ./internal/policy 'Decide|Arguments|Visible' 2000x
run "backtest: 1,000,000 recorded calls decided again" ./internal/policy Backtest 1x
run "use: what following the log costs a call, beside an aim of 5 µs, and an event" ./internal/use Use 1x
run "authentication: no store on the way" ./internal/identity Authenticate 1s
run "access tokens: checked in memory, seen before and for the first time; and issued" ./internal/tokens Verify 1s
run "inspection: bytes per second" ./internal/inspection . 1s
run "append: beside a bare group-committed insert" ./internal/audit Append 20000x
run "budgets: an intent with a budget beside one without" ./internal/budget Reserve 1x
run "sealing, exporting and verifying 1,000,000 events" ./internal/audit/seal 'Seal$' 1x
run "sealing: what it costs whoever records" ./internal/audit/seal Append 1x
run "search: first pages over 1,000,000 events" ./internal/audit/search FirstPage 1x
run "search: how fast the index catches up" ./internal/audit/search Index 3000x
run "export: events made into OCSF and OTLP" ./internal/audit/export Mapping 1s
run "export: a backlog to a receiver and to files" ./internal/audit/export 'Export$' 20000x
run "stop: from the request to the last stream cut, three replicas on PostgreSQL" ./internal/server 'Stop' 200x
run "approvals: 10,000 held calls that wait, resident memory and goroutines of the server" ./internal/server 'Waiting' 1x
run "approvals: from a decision to the call at its upstream, on one machine and across two replicas on PostgreSQL" ./internal/server 'Decide' 100x
run "inventory: 1,000 agents by 100 tools" ./internal/server Inventory 20x
run "console: every page with 1,000,000 events and 1,000 agents in the store, on SQLite and PostgreSQL" ./internal/server Pages 1x
run "the line: beside direct and a plain reverse proxy" ./internal/gateway/llm Line 1x
run "the HTTP front: beside direct and a plain reverse proxy" ./internal/gateway/egress HTTP 1x
run "runs: what a proposal, and looking for one, costs beside one durable row" ./internal/runs Runs 20x
run "detection: events a second through all rules, on one core" ./internal/detection Rules 1s
run "detection: what a call waits for, without detection and with it" ./internal/detection Call 1x
run "idle streams: resident memory of the server alone" ./internal/server IdleStreams 1x
