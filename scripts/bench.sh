#!/usr/bin/env bash
# bench.sh: runs every benchmark that prints ratios, writing JSON to
# COUNTERSIGN_BENCH_OUT. Figures are ratios within one run: these mean
# something on a busy machine, absolute ones do not.
set -euo pipefail
: "${COUNTERSIGN_BENCH_OUT:?set it to a directory}"
echo "== decisions"
go test -run '^$' -bench 'Decide' -benchtime 2000x ./internal/policy
echo "== append"
go test -run '^$' -bench 'Append' -benchtime 1s ./internal/audit
echo "== inspection"
go test -run '^$' -bench . -benchtime 1s ./internal/inspection
echo "== authentication"
go test -run '^$' -bench 'Authenticate' -benchtime 1s ./internal/identity
echo "== the line"
go test -count=1 -v -timeout 30m -run 'TestBench' -bench-line ./internal/gateway/llm
