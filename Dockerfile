# One image for the server and for workers; compose.yaml starts each with its own command.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/sparklio
# The versions that the tests have run with, for the package and for what builds it.
ENV PATH=/opt/sparklio/bin:$PATH \
    PIP_CONSTRAINT=/src/requirements-dev.lock \
    PIP_BUILD_CONSTRAINT=/src/requirements-dev.lock \
    PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml requirements-dev.lock README.md .env.example provider_config.yaml ./
COPY examples examples
COPY graph graph
COPY nodes nodes
COPY providers providers
COPY routing routing
COPY sparklio sparklio
COPY workflows workflows
# Rented models need theirs: openai, anthropic, gemini, dalle, nanobanana; tracing: otel.
ARG EXTRAS=server,distributed,encryption
RUN --mount=type=cache,target=/root/.cache/pip pip install ".[$EXTRAS]"


FROM python:3.11-slim-bookworm
# /app is empty: a provider_config.yaml or workflows/ that is mounted there is found as in any other folder.
RUN groupadd --gid 10001 sparklio \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin sparklio \
    && install -d -o sparklio -g sparklio -m 0750 /data /artifacts \
    && install -d /app
COPY --from=build /opt/sparklio /opt/sparklio
ENV PATH=/opt/sparklio/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SPARKLIO_HOME=/data
WORKDIR /app
USER 10001:10001
EXPOSE 8000
# Of the server; a worker has another, see compose.yaml. Not by urllib, which would ask a proxy of the environment.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as Ask; a = Ask('127.0.0.1', 8000, timeout=8); a.request('GET', '/ready'); raise SystemExit(a.getresponse().status != 200)"]
ENTRYPOINT ["sparklio"]
CMD ["serve", "--host", "0.0.0.0"]
