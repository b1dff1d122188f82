#!/usr/bin/env bash
# browser.sh: installs what the console's tests need, when it is missing: a
# Chromium (on Debian and Ubuntu) and the packages of test/browser. Elsewhere
# set CHROMIUM to a Chromium or Chrome. Where it cannot be had, it says so and
# succeeds: the tests skip.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'browser: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
found() { [ -n "${CHROMIUM:-}" ] || have chromium || have chromium-browser || have google-chrome; }

install() {
  local sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo"
  say "Chromium is missing: installing it with apt-get"
  $sudo apt-get update -qq >&2 && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >&2
}

if ! found && have apt-get; then
  install || say "apt-get could not install Chromium"
fi
found || say "there is no Chromium: set CHROMIUM to a Chromium or Chrome; without one the console's browser tests are skipped"
if ! have node || ! have npm; then
  say "there is no Node.js with npm: install it; without it the console's browser tests are skipped"
elif [ ! -e test/browser/node_modules/.package-lock.json ]; then
  (cd test/browser && npm ci --ignore-scripts --no-audit --no-fund >&2)
fi
