# Pressroom's image: `docker build .`. With `--target model` it is the embedded model as a service.
# It builds with and without BuildKit.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
# Where packages come from, when not from pip's default. No later stage, and so no image, knows them.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
RUN python3 -m venv /opt/pressroom
ENV PATH=/opt/pressroom/bin:$PATH
COPY requirements.lock /tmp/
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/requirements.lock
COPY pyproject.toml README.md LICENSE /src/
COPY schemas /src/schemas
COPY producers /src/producers
COPY consumers /src/consumers
COPY streams /src/streams
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps /src

FROM ${BASE} AS pressroom
RUN useradd --uid 10001 --home-dir /var/lib/pressroom --shell /usr/sbin/nologin pressroom \
 && install --directory --owner=pressroom --group=pressroom /var/lib/pressroom /articles
COPY --from=build /opt/pressroom /opt/pressroom
ENV PATH=/opt/pressroom/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PRESSROOM_HOME=/var/lib/pressroom \
    PRESSROOM_CACHE=/var/cache/pressroom
USER pressroom
WORKDIR /var/lib/pressroom
VOLUME ["/var/lib/pressroom"]
# a worker commits what is finished and leaves; give it 30 seconds
STOPSIGNAL SIGTERM
# healthy is who is connected to something; state 01 is an established connection
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["grep", "-qE", "^ *[0-9]+: [0-9A-F]+:[0-9A-F]+ [0-9A-F]+:[0-9A-F]+ 01 ", "/proc/net/tcp", "/proc/net/tcp6"]
ENTRYPOINT ["pressroom"]
CMD ["--help"]

FROM build AS weights
RUN PRESSROOM_CACHE=/var/cache/pressroom python -m streams.local.wheel

FROM pressroom AS model
# llama.cpp's only need that no wheel brings
USER root
RUN ldconfig -p | grep -q libgomp.so.1 \
 || { apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; }
USER pressroom
COPY --from=weights /var/cache/pressroom /var/cache/pressroom
ENV OMP_WAIT_POLICY=passive
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["python", "-m", "streams.local.model_server", "--host=0.0.0.0", "--port=8000"]
CMD []

# what is built when no target is named
FROM pressroom
