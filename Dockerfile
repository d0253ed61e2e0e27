# One image for every process of the mesh: `docker build -t busmesh .`, then `docker run busmesh agent run ...`.
# A bus comes from elsewhere (docker-compose.yml takes the official NATS image); the extra `demo` adds the
# server for `busmesh up` and `busmesh demo`.

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY agents ./agents
COPY policies ./policies
COPY busmesh ./busmesh
RUN python -m pip wheel --no-cache-dir --wheel-dir /wheels --require-hashes --requirement requirements.lock \
    && python -m pip wheel --no-cache-dir --wheel-dir /wheels --no-deps .

FROM python:3.13-slim
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BUSMESH_HOME=/var/lib/busmesh
# Folders that volumes are mounted on: a new named volume takes over their owner and mode.
RUN useradd --system --uid 10001 --no-create-home --home-dir /var/lib/busmesh busmesh \
    && install --directory --owner=10001 --group=10001 --mode=0700 \
        /var/lib/busmesh /var/lib/busmesh-join /var/lib/busmesh-observer \
    && install --directory --owner=10001 --group=10001 --mode=0755 /var/lib/busmesh-bus
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --no-index --find-links=/wheels 'busmesh[demo]'
USER 10001:10001
WORKDIR /var/lib/busmesh
ENTRYPOINT ["busmesh"]
CMD ["--help"]
