# hubweave for regions on AWS: one program, run by a user without rights, that writes nothing to the disk.
#
#   docker build -t hubweave .
#   docker run -v "$PWD/config/aws.toml:/etc/hubweave/topology.toml:ro" hubweave run --region eu-central-1
#
# Both bases are arguments, so that a registry of your own can stand in.
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BUILD_BASE} AS build
WORKDIR /src
# Not rust-toolchain.toml: the base has the toolchain, and would fetch another.
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY config config
COPY src src
COPY tests tests
RUN cargo build --release --locked --bin hubweave && strip target/release/hubweave

FROM ${BASE}
# Root certificates for TLS: nothing else of the system is used.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin hubweave
COPY --from=build /src/target/release/hubweave /usr/local/bin/hubweave
USER 10001
ENV HUBWEAVE_CONFIG=/etc/hubweave/topology.toml
# `health` of config/aws.toml: probes alone.
EXPOSE 8080
ENTRYPOINT ["hubweave"]
CMD ["check"]
