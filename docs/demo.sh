#!/usr/bin/env bash
# Ships this machine's own log files to a running server and shows answers. `make demo` calls it.
set -euo pipefail
millrace=${MILLRACE:-millrace}
export MILLRACE_ADDR=${MILLRACE_ADDR:-http://127.0.0.1:3100}

if ! "$millrace" labels >/dev/null 2>&1; then
  echo "no server answers at $MILLRACE_ADDR: start one with 'make run' in another terminal first" >&2
  exit 1
fi
show() {
  printf '\n$ millrace'
  for word in "$@"; do
    case $word in
      *[!A-Za-z0-9_=./:-]*) printf " '%s'" "$word" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
  printf '\n'
  "$millrace" "$@"
}

host=$(hostname 2>/dev/null || echo this-machine)
mapfile -t files < <(find /var/log -type f -readable -size -50M \( -name '*.log' -o -name syslog -o -name messages \) 2>/dev/null | head -n 20)
if [ ${#files[@]} -gt 0 ]; then
  show push --label "host=$host" --label job=varlogs "${files[@]}"
fi
if command -v journalctl >/dev/null 2>&1 && [ -n "$(journalctl -n 1 --no-pager -q 2>/dev/null)" ]; then
  journalctl -n 5000 --no-pager -q | "$millrace" push --label "host=$host" --label job=journal
fi
if [ ${#files[@]} -eq 0 ]; then
  echo "no readable *.log under /var/log; sending the list of installed files instead" >&2
  find /usr/bin | "$millrace" push --label "host=$host" --label job=varlogs
fi

show labels
show series
show query --limit 5 '{job="varlogs"}'
show query --instant "sum by (filename) (count_over_time({job=\"varlogs\"}[1h]))"
show query --limit 5 --stats '{job=~".+"} |~ "(?i)(error|fail|install)"'
printf '\nNow point an agent or Grafana at %s: it speaks the API of Loki.\n' "$MILLRACE_ADDR"
