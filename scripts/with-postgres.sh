#!/usr/bin/env bash
# with-postgres.sh COMMAND...: runs COMMAND with COUNTERSIGN_TEST_POSTGRES set.
#
# Uses the server named by COUNTERSIGN_TEST_POSTGRES if it is set. Otherwise
# starts a throw-away one (its data in memory where there is room, else in a
# temporary directory, on a free port of 127.0.0.1), installing PostgreSQL first
# on Debian and Ubuntu when it is missing, and stops and removes it at the end.
# Tests' SQLite files are put beside it (COUNTERSIGN_TEST_MEMORY). With
# COUNTERSIGN_POSTGRES_SYNC on all is on disk, and syncs.
set -euo pipefail

if [ -n "${COUNTERSIGN_TEST_POSTGRES:-}" ]; then
  exec "$@"
fi

say() { printf 'with-postgres: %s\n' "$*" >&2; }

new_enough() { # DIRECTORY
  local version
  { [ -x "$1/initdb" ] && [ -x "$1/pg_ctl" ]; } || return 1
  version=$("$1/initdb" --version 2>/dev/null) || return 1
  version=${version##*(PostgreSQL) }
  version=${version%%[!0-9]*}
  [ "${version:-0}" -ge 15 ]
}

find_bin() {
  local d
  for d in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
    if new_enough "$d"; then echo "$d"; return; fi
  done
  if d=$(command -v initdb 2>/dev/null) && new_enough "$(dirname "$d")"; then dirname "$d"; fi
}

bin=$(find_bin || true)
if [ -z "$bin" ]; then
  if command -v apt-get >/dev/null 2>&1; then
    sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"
    say "PostgreSQL is missing: installing it with apt-get"
    $sudo apt-get update -qq >&2
    # --no-install-recommends keeps it small; the packaged service is not used
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >&2
    bin=$(find_bin || true)
  fi
fi
if [ -z "$bin" ]; then
  say "PostgreSQL 15 or newer is needed for this. Either install it (macOS: brew install postgresql@17),"
  say "or set COUNTERSIGN_TEST_POSTGRES=postgres://USER:PASSWORD@HOST/postgres (a user that may create databases),"
  say "or run make test-short, which needs Go alone."
  exit 1
fi

# The tests make and drop hundreds of databases of a thousand files each, which
# takes a disk's file system twenty times as long as memory.
place=${TMPDIR:-/tmp}
if [ "${COUNTERSIGN_POSTGRES_SYNC:-off}" != on ] && [ -w /dev/shm ] && [ "$(df -Pk /dev/shm | awk 'END { print $4 }')" -gt 3000000 ]; then
  place=/dev/shm
fi
dir=$(mktemp -d "$place/countersign-pg.XXXXXX")
if [ "$place" = /dev/shm ]; then
  mkdir "$dir/sqlite"
  export COUNTERSIGN_TEST_MEMORY=$dir/sqlite
fi
as=()
if [ "$(id -u)" = 0 ]; then # PostgreSQL refuses to run as root
  id postgres >/dev/null 2>&1 || useradd --system --no-create-home --user-group postgres
  chown postgres "$dir"
  as=(setpriv --reuid postgres --regid "$(id -g postgres)" --init-groups --)
fi

stop() {
  "${as[@]}" "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap stop EXIT

# The start is tried again on another port when somebody else has the port.
# Ports beneath 32768 are not given out by the system to outgoing connections,
# and the kernel's randomness is no clock that two who start at once share.
random_port() { echo $((20000 + $(od -An -N4 -tu4 /dev/urandom) % 12000)); }

start() {
  local tries=0
  until
    port=$(random_port)
    rm -f "$dir/server.log"
    "${as[@]}" "$bin/pg_ctl" -D "$dir/data" -o "-p $port" -l "$dir/server.log" -w -t 120 start >/dev/null 2>&1
  do
    tries=$((tries + 1))
    if [ "$tries" -ge 20 ] || ! grep -q 'could not bind' "$dir/server.log" 2>/dev/null; then
      say "PostgreSQL does not start:"
      cat "$dir/server.log" >&2 || true
      return 1
    fi
  done
}

cd "$dir"
"${as[@]}" "$bin/initdb" -D "$dir/data" -U countersign -A trust -E UTF8 --locale=C >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; exit 1; }
cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
CONF
# Nothing that runs on this server depends on what survives a power cut: tests
# that kill or starve PostgreSQL start one of their own. Benches measure syncs.
if [ "${COUNTERSIGN_POSTGRES_SYNC:-off}" != on ]; then
  printf 'fsync = off\nfull_page_writes = off\n' >>"$dir/data/postgresql.conf"
fi
start
cd - >/dev/null

export COUNTERSIGN_TEST_POSTGRES="postgres://countersign@127.0.0.1:$port/postgres?sslmode=disable"
set +e
"$@"
exit $?
