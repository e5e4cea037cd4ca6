#!/bin/bash
# Builds a corpus on Spark 3 by Beam's job server for it, which Beam fetches. Run it from the project's folder, after
# `make test` has made .venv; each machine of the cluster runs `python -m pipelines worker-pool`:
#
#   SPEC=corpus_specs/my_site.yaml OUT=s3://corpora/my_site MASTER=spark://10.0.0.1:7077 WORKERS=16 \
#     bash tools/cluster/deploy/spark.sh
#
# More options of Beam may follow the script's name. A stopped or failed build continues with the same command.
set -euo pipefail
: "${SPEC:?is not set: the YAML of the corpus}" "${OUT:?is not set: a folder that all workers reach}"
: "${MASTER:?is not set: the address of the Spark master}"

exec "${PYTHON:-.venv/bin/python}" -m pipelines corpus --spec "$SPEC" --out "$OUT" \
    --runner SparkRunner --workers "${WORKERS:-16}" -- \
    --spark_master_url="$MASTER" --spark_version=3 \
    --environment_type=EXTERNAL --environment_config=localhost:50000 "$@"
