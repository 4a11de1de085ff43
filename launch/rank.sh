#!/usr/bin/env bash
# One rank under torchrun: `launch/rank.sh train RECIPE ...`. Started by launch/torchrun.sh.
#
# torchrun ends with 1 whatever its ranks end with; so each leaves its exit code in $BRAID_CODES.
# 75 and 130 (interrupted and saved) are told torchrun as success: it would otherwise kill the ranks
# that are a moment behind, or start all of them again.
set -u
name="$BRAID_CODES/$LOCAL_RANK"
rm -f "$name.code"
echo $$ >"$name.pid"
# braid gets the same signals, as it is in the same process group; wait for what it makes of them
trap : TERM INT HUP QUIT USR1
"${PYTHON:-python}" -m braid "$@"
code=$?
echo "$code" >"$name.code"
[ "$code" = 75 ] || [ "$code" = 130 ] && exit 0
exit "$code"
