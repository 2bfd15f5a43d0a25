set -eu
number=1
while [ "$number" -le "$GRISTMILL_PARAMETER_COUNT" ]; do
    printf '{"number": %d, "square": %d}\n' "$number" "$((number * number))"
    number=$((number + 1))
done
