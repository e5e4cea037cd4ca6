#!/bin/bash
# Trains on a SLURM cluster, with one process per GPU: the run is saved before the time limit and queued again, until it
# is finished. Submit it from the project's folder, on a shared file system, after `make test` has made .venv:
#
#   CONFIG=trainer/configs/emu2_stage2.yaml CORPUS=/data/corpus OUT=/data/runs/emu2 \
#     sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12 --time=24:00:00 trainer/launch/slurm.sh
#
# CONFIG   the run's YAML                              CORPUS   the corpus's folder
# OUT      the run's folder; build/runs/<config's name> if not given
# COMMAND  encoder, pretrain, decoder, video-decoder, all of them (`all`) or tune; pretrain if not given
# PYTHON   .venv/bin/python if not given
# More options of the trainer may follow the script's name: ... trainer/launch/slurm.sh --set pretrain.steps=100
#
# The output is written to OUT/logs/slurm-<job>.log. `scancel --signal=TERM JOB` saves the run and queues it again at
# once, `scancel JOB` ends it. Without GPUs, for example to try it on one machine, leave out --gpus-per-node.
#SBATCH --job-name=dromaius
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120

fail() {
    echo "slurm.sh: $1" >&2
    exit 2
}

python=${PYTHON:-.venv/bin/python}
[ -n "$CONFIG" ] || fail "CONFIG is not set: the YAML of the run"
[ -f "$CONFIG" ] || fail "CONFIG=$CONFIG: no such file below $PWD"
[ -n "$CORPUS" ] || fail "CORPUS is not set: the folder of the corpus"
command -v "$python" >/dev/null || fail "PYTHON=$python: not found below $PWD; submit from the project's folder"
[ -n "$SLURM_JOB_ID" ] || fail "no job of SLURM: submit it with sbatch"
tasks=${SLURM_TASKS_PER_NODE%%[(,]*}
[ -z "$SLURM_GPUS_ON_NODE" ] || [ "$SLURM_GPUS_ON_NODE" = "$tasks" ] ||
    fail "$SLURM_GPUS_ON_NODE GPUs but $tasks processes per node: give --ntasks-per-node=$SLURM_GPUS_ON_NODE"

name=$(basename "${CONFIG%.*}")
out=${OUT:-build/runs/$name}
log=$out/logs/slurm-$SLURM_JOB_ID.log
mkdir -p "$out/logs" || fail "OUT=$out: cannot be written"
echo "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}: $SLURM_JOB_NUM_NODES nodes x $tasks processes; see $log"
exec >>"$log" 2>&1

# False if the job was cancelled or queued again from outside: its processes then have the signal already, and whether
# to queue it again was decided elsewhere.
running() { [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; }

# The time limit's signal reaches only this shell, which passes it on to the processes. (srun itself would end them.)
trap 'running && scancel --signal=TERM "$SLURM_JOB_ID"' TERM

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
# --wait: if one process dies, the others are ended.
srun --label --wait=600 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    "$python" -m trainer "${COMMAND:-pretrain}" --config "$CONFIG" --corpus "$CORPUS" --out "$out" "$@" </dev/null &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do # the signal ended the wait
    wait "$step"
    code=$?
done
trap '' TERM # requeueing ends this shell by the same signal

# 75: saved, to be continued. 143: the signal came before there was anything to save.
if { [ "$code" = 75 ] || [ "$code" = 143 ]; } && running; then
    echo "job $SLURM_JOB_ID: queued again to continue" # if that is not allowed on a cluster, submit the job again
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
