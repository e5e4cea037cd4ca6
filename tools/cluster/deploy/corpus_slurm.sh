#!/bin/bash
# Builds a corpus on one machine of a SLURM cluster, with one worker per core: the build is stopped before the time limit
# and queued again, until it is finished. Submit it from the project's folder, after `make corpus` has made .venv:
#
#   SPEC=corpus_specs/my_site.yaml OUT=/data/my_site sbatch --cpus-per-task=32 --time=24:00:00 tools/cluster/deploy/corpus_slurm.sh
#
# Several machines build several specs, or one corpus through Flink on machines of their own: see docs/cluster.md.
#SBATCH --job-name=dromaius-corpus
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120

fail() {
    echo "corpus_slurm.sh: $1" >&2
    exit 2
}

python=${PYTHON:-.venv/bin/python}
[ -n "$SPEC" ] || fail "SPEC is not set: the YAML of the corpus"
[ -f "$SPEC" ] || fail "SPEC=$SPEC: no such file below $PWD"
[ -n "$OUT" ] || fail "OUT is not set: the folder of the corpus"
command -v "$python" >/dev/null || fail "PYTHON=$python: not found below $PWD; submit from the project's folder"
[ -n "$SLURM_JOB_ID" ] || fail "no job of SLURM: submit it with sbatch"

"$python" -m pipelines corpus --spec "$SPEC" --out "$OUT" --workers "${SLURM_CPUS_PER_TASK:-1}" "$@" &
build=$!
trap 'kill -TERM "$build"' TERM
wait "$build"
code=$?
while kill -0 "$build" 2>/dev/null; do # the signal ended the wait
    wait "$build"
    code=$?
done
trap '' TERM
if [ "$code" = 130 ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "job $SLURM_JOB_ID: queued again to continue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
