# Flink, and Beam's job server, whose jars are on Flink's own class path: so no job has to bring them, 156 MB each time.
# From the project's folder, after `make cluster-parts`:
#
#   docker build -f tools/cluster/deploy/flink.Dockerfile -t registry.example.org/dromaius-flink:1 .
FROM flink:1.19.0-java17

# Of this path Beam's job server sends nothing to the cluster.
COPY build/cluster/gradle/wrapper /opt/job-server/gradle/wrapper
# What the image does not bring itself: flink-dist holds Flink's parts, and the log of Flink is not that of the job server.
RUN find /opt/job-server/gradle/wrapper -name '*.jar' ! -name 'flink-*' ! -name 'slf4j-*' -exec cp {} /opt/flink/lib/ \; && \
    cp /opt/job-server/gradle/wrapper/beam-runners-flink-*.jar /opt/flink/lib/
