#!/usr/bin/env bash
# fuzz.sh TIME: runs every fuzz target in the module for TIME. Little of it goes into
# making inputs small: with large ones, such as whole exports, nothing else would
# happen (16 runs in five minutes, instead of 1.3 million).
set -euo pipefail
time=${1:-60s}
grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
  grep -h '^func Fuzz' "$dir"/*_test.go | sed 's/func \(Fuzz[A-Za-z0-9_]*\).*/\1/' | while read -r target; do
    echo "== $dir $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "$dir"
  done
done
