# The trainer, without Beam. From the project's folder:
#
#   docker build -f tools/cluster/deploy/trainer.Dockerfile -t registry.example.org/dromaius-trainer:1 .
FROM python:3.11-slim-bookworm

# DeepSpeed compiles nothing by default; its import asks for a compiler all the same.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/dromaius
COPY requirements/dev.lock requirements/
COPY pyproject.toml README.md ./
COPY pipelines pipelines
COPY tools tools
COPY trainer trainer
COPY model model
# The lock's versions of the extra `train` and of the store.
RUN sed -E '/^ *--hash/d; s/ *\\$//' requirements/dev.lock > /tmp/versions && \
    pip install --no-cache-dir -c /tmp/versions '.[train,s3]' && rm /tmp/versions

USER 65534:65534
ENTRYPOINT ["python", "-m", "trainer"]
CMD ["--help"]
