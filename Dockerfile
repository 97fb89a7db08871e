# The program in a container, for CPUs or for NVIDIA GPUs. docs/howto/container.md says how to use it.
#
#   docker build --tag show-attend-tell .
#   docker build --tag show-attend-tell:cuda --build-arg EXTRA=cuda .
FROM python:3.13-slim-bookworm

# Extras of pyproject.toml, joined by commas; none for CPUs.
ARG EXTRA=""

# With a C++ compiler, training on CPUs takes about half the time. Its version may be any.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# Anyone may write to these, so that the container also runs as `--user $(id -u):$(id -g)`.
RUN useradd --create-home --uid 1000 reader \
    && install --directory --mode=1777 /cache /work

WORKDIR /opt/show-attend-tell
COPY LICENSE MANIFEST.in README.md launch.sh pyproject.toml requirements.lock setup.py ./
COPY experiments experiments
COPY show_attend_tell show_attend_tell
RUN PIP_NO_CACHE_DIR=1 SHOW_ATTEND_TELL_EXTRA="$EXTRA" ./launch.sh --help

# Data sets, annotation vectors and compiled programs, and what libraries keep.
ENV XDG_CACHE_HOME=/cache
VOLUME /cache

USER 1000
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["/opt/show-attend-tell/launch.sh"]
CMD ["--help"]
