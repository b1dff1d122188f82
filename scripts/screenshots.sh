#!/usr/bin/env bash
# screenshots.sh: makes docs/screenshots/*.png: starts the example business in
# a temporary directory and takes pictures of every page, the main ones in light and dark.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/browser.sh
dir=$(mktemp -d "${TMPDIR:-/tmp}/countersign-pictures.XXXXXX")
port=$((20000 + $(od -An -N4 -tu4 /dev/urandom) % 12000))
cp bin/countersign "$dir/countersign" # its path is in the pictures
"$dir/countersign" up --example --data "$dir/data" --listen "127.0.0.1:$port" >"$dir/up.log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$dir"' EXIT
for _ in $(seq 600); do
  grep -q 'The agents go on' "$dir/up.log" && break
  kill -0 "$pid" || { cat "$dir/up.log" >&2; exit 1; }
  sleep 0.2
done
sleep 3 # everything is sealed and searchable
token=$(sed 's/.*"token": *"\([^"]*\)".*/\1/' "$dir/data/client.json")
mkdir -p docs/screenshots
cd test/browser
URL="http://127.0.0.1:$port" TOKEN="$token" node screenshots.mjs ../../docs/screenshots
