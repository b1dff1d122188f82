#!/usr/bin/env bash
# test-twice.sh go test ...: runs it. With COUNTERSIGN_TEST_TWICE=FILE, tests
# that fail are tried once more, each alone, and those that then pass are named
# in FILE: a busy machine must not hide a good change, and a test that passes
# only sometimes must not be hidden either. What no second try forgives: a data
# race, a panic, a time-out, a package that does not build, more than five
# failures.
set -uo pipefail
[ -n "${COUNTERSIGN_TEST_TWICE:-}" ] || exec "$@"
out=$(mktemp); trap 'rm -f "$out"' EXIT

"$@" 2>&1 | tee "$out"
status=${PIPESTATUS[0]}
[ "$status" -ne 0 ] || exit 0
if grep -qE 'DATA RACE|^panic: |panic: test timed out|\[(build|setup) failed\]|^fatal error: ' "$out"; then exit "$status"; fi

# Failed tests that have no failed test beneath them, as "package test".
failed=$(awk '
  match($0, /^ *--- FAIL: [^ ]+/) { sub(/^ *--- FAIL: /, ""); names[++n] = $1 }
  /^FAIL\t/ {
    if (n == 0) print $2, "-"
    for (i = 1; i <= n; i++) {
      leaf = 1
      for (j = 1; j <= n; j++) if (index(names[j], names[i] "/") == 1) leaf = 0
      if (leaf) print $2, names[i]
    }
    n = 0
  }' "$out")
count=$(grep -c . <<<"$failed")
if [ "$count" -eq 0 ] || [ "$count" -gt 5 ] || grep -q ' -$' <<<"$failed"; then exit "$status"; fi

# The command as it was, without its packages and its choice of tests.
again=()
skip=0
for a in "$@"; do
  if [ "$skip" = 1 ]; then skip=0; continue; fi
  case $a in
    -run | -skip) skip=1 ;;
    ./* | github.com/*) ;;
    *) again+=("$a") ;;
  esac
done
while read -r pkg name; do
  pattern=$(sed -E -e 's#[].*^$+?(){}|[\]#\\&#g' -e 's#/#$/^#g' -e 's#.*#^&$#' <<<"$name")
  printf '\n== once more, alone: %s %s\n' "$pkg" "$name"
  "${again[@]}" -count=1 -run "$pattern" "$pkg" </dev/null || exit "$status"
  echo "$pkg $name" >>"$COUNTERSIGN_TEST_TWICE"
done <<<"$failed"
