#!/usr/bin/env bash
# with-postgres.sh COMMAND...: runs COMMAND with COUNTERSIGN_TEST_POSTGRES set.
#
# Uses the server named by COUNTERSIGN_TEST_POSTGRES if it is set. Otherwise
# starts a throw-away one (its data in a temporary directory, on a free port of
# 127.0.0.1), installing PostgreSQL first on Debian and Ubuntu when it is
# missing, and stops and removes it at the end.
set -euo pipefail

if [ -n "${COUNTERSIGN_TEST_POSTGRES:-}" ]; then
  exec "$@"
fi

say() { printf 'with-postgres: %s\n' "$*" >&2; }

find_bin() {
  local d
  for d in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
    if [ -x "$d/initdb" ]; then echo "$d"; return; fi
  done
  if command -v initdb >/dev/null 2>&1; then dirname "$(command -v initdb)"; fi
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

dir=$(mktemp -d "${TMPDIR:-/tmp}/countersign-pg.XXXXXX")
as=()
if [ "$(id -u)" = 0 ]; then # PostgreSQL refuses to run as root
  id postgres >/dev/null 2>&1 || useradd --system --no-create-home postgres
  chown postgres "$dir"
  as=(setpriv --reuid postgres --regid postgres --init-groups --)
fi
port=$(awk 'BEGIN{srand(); print 20000+int(rand()*20000)}')

stop() {
  "${as[@]}" "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap stop EXIT

cd "$dir"
"${as[@]}" "$bin/initdb" -D "$dir/data" -U countersign -A trust -E UTF8 --locale=C >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; exit 1; }
cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
max_connections = 300
CONF
if ! "${as[@]}" "$bin/pg_ctl" -D "$dir/data" -l "$dir/data/server.log" -w -t 60 start >/dev/null 2>&1; then
  cat "$dir/data/server.log" >&2
  exit 1
fi
cd - >/dev/null

export COUNTERSIGN_TEST_POSTGRES="postgres://countersign@127.0.0.1:$port/postgres?sslmode=disable"
set +e
"$@"
exit $?
