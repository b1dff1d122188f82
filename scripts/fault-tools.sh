#!/usr/bin/env bash
# fault-tools.sh: installs what the fault tests use to make system calls fail,
# on Debian and Ubuntu, when it is missing. Elsewhere those parts say that they
# are skipped.
set -euo pipefail
if command -v strace >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
  exit 0
fi
printf 'fault-tools: strace is missing: installing it with apt-get\n' >&2
sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"
$sudo apt-get update -qq >&2
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends strace >&2
