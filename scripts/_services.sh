# What the tests need beside Python: a throw-away PostgreSQL server and a browser. Sourced by scripts/test.
# Everything started here is stopped by stop_postgres, by its own process id, and lives in one temporary folder.
# shellcheck shell=bash

PG_FOLDER=""
PG_BIN=""

can_apt() { [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null 2>&1; }
apt_install() { # PACKAGE...
    say "apt-get install $*"
    apt-get update -qq >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

find_pg_bin() {
    local folder
    for folder in $(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -Vr); do
        if [[ -x "$folder/initdb" ]]; then
            PG_BIN="$folder"
            return 0
        fi
    done
    if command -v initdb >/dev/null 2>&1; then
        PG_BIN="$(dirname "$(command -v initdb)")"
        return 0
    fi
    return 1
}

# PostgreSQL refuses to run as root: then its own user runs it, or nobody.
as_pg_user() {
    if [[ "$(id -u)" != 0 ]]; then
        "$@"
        return
    fi
    local user=nobody
    if id postgres >/dev/null 2>&1; then user=postgres; fi
    # From / because the user may not be allowed into the checkout.
    (cd / && setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups env HOME="$PG_FOLDER" "$@")
}

start_postgres() {
    if [[ -n "${STEER_TEST_POSTGRES_URL-}" ]]; then return 0; fi
    if ! find_pg_bin && can_apt; then apt_install postgresql || true; fi
    if ! find_pg_bin; then
        warn "NO POSTGRESQL HERE: its tests are skipped. Install the server (Debian: apt-get install postgresql) or set" \
            "STEER_TEST_POSTGRES_URL."
        return 0
    fi
    PG_FOLDER="$(mktemp -d /tmp/steer-pg.XXXXXX)" # under /tmp: a socket path must be short
    chmod 755 "$PG_FOLDER"
    if [[ "$(id -u)" == 0 ]]; then chown "$(id postgres >/dev/null 2>&1 && echo postgres || echo nobody)" "$PG_FOLDER"; fi
    local port
    port="$("$VENV/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
    if as_pg_user "$PG_BIN/initdb" -D "$PG_FOLDER/data" -U steer --auth=trust --encoding=UTF8 --locale=C >"$PG_FOLDER.log" 2>&1 &&
        as_pg_user "$PG_BIN/pg_ctl" -D "$PG_FOLDER/data" -w -t 60 -l "$PG_FOLDER/server.log" \
            -o "-p $port -k $PG_FOLDER -c listen_addresses=127.0.0.1 -c max_connections=100" start >>"$PG_FOLDER.log" 2>&1 9>&-; then
        export STEER_TEST_POSTGRES_URL="postgresql+psycopg://steer@127.0.0.1:$port/postgres"
    else
        cat "$PG_FOLDER.log" >&2
        if [[ -n "${CI-}" ]]; then die "PostgreSQL did not start"; fi
        warn "POSTGRESQL DID NOT START (its words are above): its tests are skipped."
    fi
}

stop_postgres() {
    if [[ -z "$PG_FOLDER" ]]; then return 0; fi
    as_pg_user "$PG_BIN/pg_ctl" -D "$PG_FOLDER/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf -- "$PG_FOLDER" "$PG_FOLDER.log"
}

find_chromium() {
    # Nothing is installed for tests that are not there.
    if [[ -n "${STEER_TEST_CHROMIUM-}" ]] || ! grep -rqs --include='*.py' 'mark\.browser' tests; then return 0; fi
    local name attempt
    for attempt in present install; do
        if [[ $attempt == install ]]; then
            if ! can_apt; then break; fi
            apt_install chromium || true
        fi
        for name in chromium chromium-browser google-chrome; do
            if command -v "$name" >/dev/null 2>&1; then
                STEER_TEST_CHROMIUM="$(command -v "$name")"
                export STEER_TEST_CHROMIUM
                return 0
            fi
        done
    done
    warn "NO CHROMIUM HERE: browser tests are skipped."
}
