# PostgreSQL with insitu, out of the packages that `make package PG=17` leaves in target/packages:
#
#   docker build --tag insitu .
#   docker build --tag insitu --build-arg BASE=postgres:18 .            # with those of `make package PG=18`
#   docker build --tag insitu-extension --target extension --build-arg PG=18 .   # an extension image for CloudNativePG
ARG BASE=postgres:17
ARG PG=18

# Nothing but /lib, /share and /licenses, to be mounted into a server.
FROM scratch AS extension
ARG PG
COPY target/packages/image-${PG} /

# Any image of Debian's or Ubuntu's PostgreSQL that names its version in PG_MAJOR.
FROM ${BASE}
RUN --mount=type=bind,source=target/packages,target=/packages \
    apt-get update \
    && apt-get install -y --no-install-recommends "/packages/postgresql-${PG_MAJOR}-insitu_"*.deb /packages/insitu-onnxruntime_*.deb \
    && rm -rf /var/lib/apt/lists/*
