set -eu
printf 'Hello, %s!\n' "$GRISTMILL_PARAMETER_WHO"
