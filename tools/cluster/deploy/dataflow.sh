#!/bin/bash
# Builds a corpus on Google Cloud Dataflow. Run it from the project's folder, after `make test` has made .venv and
# `.venv/bin/pip install gcsfs 'apache-beam[gcp]'` what the store and the service need:
#
#   SPEC=corpus_specs/my_site.yaml OUT=gs://corpora/my_site PROJECT=my-project REGION=europe-west4 \
#     IMAGE=europe-west4-docker.pkg.dev/my-project/dromaius/corpus:1 WORKERS=64 bash tools/cluster/deploy/dataflow.sh
#
# IMAGE is made of tools/cluster/deploy/corpus.Dockerfile, with gcsfs instead of the extra s3. More options of Beam may
# follow the script's name. A stopped or failed build continues with the same command.
set -euo pipefail
: "${SPEC:?is not set: the YAML of the corpus}" "${OUT:?is not set: a gs:// folder}" "${PROJECT:?is not set}"
: "${REGION:?is not set}" "${IMAGE:?is not set: the image of the workers}"

exec "${PYTHON:-.venv/bin/python}" -m pipelines corpus --spec "$SPEC" --out "$OUT" \
    --runner DataflowRunner --workers "${WORKERS:-16}" -- \
    --project="$PROJECT" --region="$REGION" --temp_location="$OUT/work/dataflow" \
    --sdk_container_image="$IMAGE" --sdk_location=container --experiments=use_runner_v2 \
    --max_num_workers="${WORKERS:-16}" --autoscaling_algorithm=NONE --machine_type="${MACHINE:-n2-standard-4}" \
    --number_of_worker_harness_threads=1 "$@"
