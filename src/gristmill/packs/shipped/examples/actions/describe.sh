set -eu
printf 'action: %s\nattempt: %s\nbytes: %s\n' "$GRISTMILL_ACTION" "$GRISTMILL_ATTEMPT" "$(wc -c < "$GRISTMILL_INPUT")"
