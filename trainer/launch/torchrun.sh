#!/bin/bash
# Trains with torchrun on machines without a scheduler, with one process per GPU. Run it on each machine, from the
# project's folder, which like corpus and run is on a shared file system, after `make test` has made .venv there:
#
#   CONFIG=trainer/configs/emu2_stage2.yaml CORPUS=/data/corpus OUT=/data/runs/emu2 \
#     NODES=2 MASTER=10.0.0.1 PROCESSES=8 bash trainer/launch/torchrun.sh
#
# CONFIG   the run's YAML                              CORPUS   the corpus's folder
# OUT      the run's folder; build/runs/<config's name> if not given
# NODES    number of machines; 1 if not given          MASTER   address of one machine, at which all connect
# PROCESSES   processes per machine; if not given one per GPU, or one per core without GPUs
# COMMAND  encoder, pretrain, decoder, video-decoder, all of them (`all`) or tune; pretrain if not given
# ADDRESS  of this machine, at which the others reach it, where its host name does not say
# RESTARTS how often a failed run goes on from its last checkpoint, together with a machine that comes back; 0 if not given
# WAIT     seconds to wait for a machine that is missing; 600 if not given
# BIN      .venv/bin if not given
# More options of the trainer may follow: ... bash trainer/launch/torchrun.sh --set pretrain.steps=100
#
# To end a run with a checkpoint, send SIGTERM to one of its torchrun processes, which passes it on and waits up to ten
# minutes (GRACE) for the checkpoint. Run the same command again to continue; the number of machines may differ.
# The exit code is the trainer's, as 75 (saved, to be continued), where it has ended the run.

fail() {
    echo "torchrun.sh: $1" >&2
    exit 2
}

bin=${BIN:-.venv/bin}
nodes=${NODES:-1}
[ -n "$CONFIG" ] || fail "CONFIG is not set: the YAML of the run"
[ -f "$CONFIG" ] || fail "CONFIG=$CONFIG: no such file below $PWD"
[ -n "$CORPUS" ] || fail "CORPUS is not set: the folder of the corpus"
[ "$nodes" = 1 ] || [ -n "$MASTER" ] || fail "MASTER is not set: the address at which $nodes machines meet"
[ -x "$bin/python" ] || fail "BIN=$bin: no python below $PWD; start this from the project's folder"

name=$(basename "${CONFIG%.*}")
meet=(--standalone)
[ "$nodes" = 1 ] || meet=(--rdzv_backend=c10d --rdzv_endpoint="$MASTER:${PORT:-29400}" --rdzv_id="$name")
conf="join_timeout=${WAIT:-600},read_timeout=${WAIT:-600}"
# torchrun tells by the host name whether this machine is MASTER.
[ -z "${ADDRESS:-}" ] || conf+=",is_host=$([ "$ADDRESS" = "${MASTER:-}" ] && echo true || echo false)"
exec "$bin/python" -m trainer.launch.elastic --nnodes="$nodes" --nproc_per_node="${PROCESSES:-auto}" "${meet[@]}" \
    --rdzv_conf="$conf" ${ADDRESS:+--local_addr="$ADDRESS"} --max_restarts="${RESTARTS:-0}" \
    --shutdown_timeout="${GRACE:-600}" -m trainer "${COMMAND:-pretrain}" \
    --config "$CONFIG" --corpus "$CORPUS" --out "${OUT:-build/runs/$name}" "$@"
