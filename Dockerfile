# The serving side: proxy, detector and the embedded demo model. No torch; runs as a user without rights, on a read-only
# root file system: only /data (the intervention log) and /tmp are written.
#
#   docker build --target proxy -t steer .
#   docker run --rm --tmpfs /tmp -v steer-data:/data steer keys create --role client      # prints a key, once
#   docker run --read-only --tmpfs /tmp -v steer-data:/data -p 8080:8080 -e STEER_SERVER__ALLOW_REMOTE=true \
#       steer serve --upstream http://vllm:8000 --host 0.0.0.0
#
# Without a key it does not listen here; STEER_ACCESS__REQUIRED=never where something in front authenticates.
# Pin the base image by digest in your own build; the version here is what constraints.txt was made on.
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /src
RUN python -m venv /opt/steer
COPY . .
RUN /opt/steer/bin/pip install -c constraints.txt ".[postgres]"

# The training side: bakes and jobs. Several GB: torch with CUDA.
#   docker build --target train -t steer-train .
FROM build AS build-train
RUN /opt/steer/bin/pip install -c constraints.txt ".[postgres,train,ray]"

FROM python:3.11-slim AS train
RUN groupadd --gid 10001 steer \
    && useradd --uid 10001 --gid steer --home-dir /data --no-create-home --shell /usr/sbin/nologin steer \
    && install -d -o steer -g steer -m 0750 /data /adapters
COPY --from=build-train /opt/steer /opt/steer
ENV PATH=/opt/steer/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /data
USER 10001:10001
ENTRYPOINT ["steer"]
CMD ["bake", "--help"]

FROM python:3.11-slim AS proxy
LABEL org.opencontainers.image.title="steer" org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 steer \
    && useradd --uid 10001 --gid steer --home-dir /data --no-create-home --shell /usr/sbin/nologin steer \
    && install -d -o steer -g steer -m 0750 /data
COPY --from=build /opt/steer /opt/steer
ENV PATH=/opt/steer/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /data
VOLUME /data
USER 10001:10001
EXPOSE 8080
# Live, not ready: an unreachable engine must not get the proxy restarted. Point readiness probes at /readyz.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["steer"]
CMD ["serve"]
