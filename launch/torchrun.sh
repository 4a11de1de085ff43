#!/usr/bin/env bash
# Train on all GPUs of this machine, or as one machine of several:
#
#     launch/torchrun.sh [--dry-run] RECIPE [key.path=value ...] [--out DIR] ...
#
# The arguments are those of `braid train`. Read from the environment:
#
#     PROCESSES     ranks on this machine; its GPUs, or 1 without any
#     NODES         machines, 1
#     NODE_RANK     number of this one; SLURM's and Kubernetes' own numbers are taken where it is unset
#     MASTER_ADDR   machine 0, for several; MASTER_PORT, 29500
#     RUN_ID        the same on all machines, other than that of a job beside it; braid
#     RESTARTS      how often torchrun starts all ranks again after one died, 0
#     SAVE_SECONDS  how long ranks have to save after a signal, 110
#     PYTHON        interpreter, python
#     DRY_RUN       1 prints the command, as --dry-run does
#
# Ends with 0 (finished), 75 (interrupted and saved: start the same command again), 130 (the same
# after Ctrl-C), 2 (a mistake in the input) or another code (an error).
set -um # m: Ctrl-C reaches this script alone, which passes it on once

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ "${1:-}" = --dry-run ]; then
    DRY_RUN=1
    shift
fi
if [ $# = 0 ]; then
    echo "usage: launch/torchrun.sh [--dry-run] RECIPE [key.path=value ...] [--out DIR] ..." >&2
    exit 2
fi

export PYTHON="${PYTHON:-python}"
gpus=$({ nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU')
processes="${PROCESSES:-$((gpus > 0 ? gpus : 1))}"
nodes="${NODES:-1}"
number="${NODE_RANK:-${SLURM_NODEID:-${JOB_COMPLETION_INDEX:-0}}}"
seconds="${SAVE_SECONDS:-110}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="$seconds"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

command=("$PYTHON" -m torch.distributed.run --nnodes "$nodes" --nproc-per-node "$processes")
if [ "$nodes" = 1 ]; then
    command+=(--standalone)
else
    command+=(
        --rdzv-backend c10d --rdzv-id "${RUN_ID:-braid}"
        --rdzv-endpoint "${MASTER_ADDR:?the name of machine 0}:${MASTER_PORT:-29500}"
        --rdzv-conf "is_host=$([ "$number" = 0 ] && echo true || echo false),join_timeout=900"
    )
fi
command+=(
    --max-restarts "${RESTARTS:-0}"
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
    --no-python "$here/rank.sh" train "$@"
)
if [ "${DRY_RUN:-0}" = 1 ]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi

BRAID_CODES="$(mktemp -d)"
export BRAID_CODES
trap 'rm -rf "$BRAID_CODES"' EXIT
asked=0
ask() { # the first signal asks to save; one more than three seconds later ends the ranks at once
    if [ "$asked" = 0 ]; then
        asked=$SECONDS
        [ "$asked" = 0 ] && asked=1
        kill -s "$1" "$torchrun" 2>/dev/null
    elif [ $((SECONDS - asked)) -gt 3 ]; then
        for file in "$BRAID_CODES"/*.pid; do
            kill -TERM -- "-$(cat "$file")" 2>/dev/null
        done
    fi
}

chmod +x "$here/rank.sh" 2>/dev/null
"${command[@]}" &
torchrun=$!
trap 'ask TERM' TERM HUP
trap 'ask INT' INT
trap 'ask USR1' USR1
while kill -0 "$torchrun" 2>/dev/null; do
    wait "$torchrun"
    code=$?
done

# Where a scheduler signals every process, torchrun is signalled twice and leaves before its ranks.
ended=$SECONDS
for file in "$BRAID_CODES"/*.pid; do
    while [ -e "$file" ] && kill -0 "$(cat "$file")" 2>/dev/null &&
        [ $((SECONDS - ended)) -lt "$seconds" ]; do
        sleep 0.2
    done
done

codes="$(cat "$BRAID_CODES"/*.code 2>/dev/null | sort -un)"
failed="$(grep -vx -e 0 -e 75 -e 130 <<<"$codes" | head -n 1)" # a rank's own error is below 128
if [ -n "$failed" ]; then
    exit "$failed"
elif [ "$(find "$BRAID_CODES" -name '*.code' | wc -l)" != "$processes" ]; then
    exit $((code ? code : 1))
elif grep -qx 130 <<<"$codes"; then
    exit 130
elif grep -qx 75 <<<"$codes"; then
    exit 75
fi
exit 0
