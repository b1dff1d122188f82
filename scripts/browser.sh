#!/usr/bin/env bash
# browser.sh: installs what the console's tests need, when it is missing: a
# Chromium (on Debian and Ubuntu) and the packages of test/browser. Elsewhere
# set CHROMIUM to a Chromium or Chrome.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'browser: %s\n' "$*" >&2; }
if [ -z "${CHROMIUM:-}" ] && ! command -v chromium >/dev/null 2>&1 && ! command -v google-chrome >/dev/null 2>&1; then
  if command -v apt-get >/dev/null 2>&1; then
    sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"
    say "Chromium is missing: installing it with apt-get"
    $sudo apt-get update -qq >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >&2
  else
    say "no Chromium found: set CHROMIUM to one; the console's tests are skipped"
  fi
fi
if command -v npm >/dev/null 2>&1 && [ ! -e test/browser/node_modules/.package-lock.json ]; then
  (cd test/browser && npm ci --ignore-scripts --no-audit --no-fund >&2)
fi
