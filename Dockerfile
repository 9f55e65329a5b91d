# `foveate serve` on a CPU: no root, and no network while it runs.
#
#   docker build -t foveate-serve .
#   export FOVEATE_TOKEN=$(openssl rand -hex 16)
#   docker run --rm -p 127.0.0.1:8000:8000 -e FOVEATE_TOKEN -v "$PWD/out/birds-onnx:/model:ro" foveate-serve
#
# Then open http://127.0.0.1:8000/?token=TOKEN. Mount an export: it has its CLIP inside, and there is no hub.
# PyTorch's CPU build is smaller by gigabytes: name its index with --build-arg PIP_EXTRA_INDEX_URL=...
FROM python:3.12-slim
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
COPY src src
RUN pip install --no-cache-dir -c constraints.txt '.[serve,export]' \
    && cd / && rm -rf /build \
    && useradd --no-create-home --uid 10001 foveate
WORKDIR /
USER foveate
ENV HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s CMD ["python", "-c", \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["foveate", "serve", "--host", "0.0.0.0"]
CMD ["/model"]
