# A worker that builds corpora, without torch: its worker pool beside each TaskManager, or Beam's own boot (Dataflow, Spark).
# From the project's folder:
#
#   docker build -f tools/cluster/deploy/corpus.Dockerfile -t registry.example.org/dromaius-corpus:1 .
FROM python:3.11-slim-bookworm

# Beam's boot, by which Dataflow, Spark and Flink with `--environment_type=DOCKER` start workers; of the version of the lock.
COPY --from=apache/beam_python3.11_sdk:2.77.0 /opt/apache/beam /opt/apache/beam

WORKDIR /opt/dromaius
COPY requirements/crawl.lock requirements/dev.lock requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/crawl.lock
COPY pyproject.toml README.md ./
COPY pipelines pipelines
COPY tools tools
COPY trainer trainer
COPY model model
# The extra of the store, within the versions of the lock; gcsfs or adlfs for other stores.
RUN sed -E '/^ *--hash/d; s/ *\\$//' requirements/dev.lock > /tmp/versions && \
    pip install --no-cache-dir -c /tmp/versions '.[s3]' && rm /tmp/versions

USER 65534:65534
# A pool by default; a runner that brings its own entry point replaces it.
ENTRYPOINT ["python", "-m", "pipelines"]
CMD ["worker-pool", "--host", "127.0.0.1", "--port", "50000"]
