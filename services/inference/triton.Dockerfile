# Triton with UniRig's networks; also fetches their checkpoints:
#   python3 -m services.inference.unirig_network.fetch
# From the top of the repository:
#   docker build --file services/inference/triton.Dockerfile .
#
# NVIDIA's image brings its own Python, which Triton's Python back end is made for: 3.10 up to
# release 24.10, 3.12 since 24.12, never 3.11. So the networks' packages are installed for the
# image's Python, whichever that is. PyTorch comes with its own CUDA libraries.
ARG BASE=nvcr.io/nvidia/tritonserver:24.12-py3

FROM ${BASE} AS packages
WORKDIR /source
COPY pyproject.toml constraints.txt README.md ./
COPY protos ./protos
# Blender is what holds the project to Python 3.11, and is not in here.
RUN mkdir services \
    && pip install --no-cache-dir --ignore-requires-python --target /opt/unirig \
        -c constraints.txt '.[triton]'

# What the Python packages are, with versions and licences: CycloneDX.
FROM packages AS sbom
RUN python3 -m venv --without-pip /opt/cyclonedx \
    && pip --python /opt/cyclonedx/bin/python3 install --no-cache-dir cyclonedx-bom==7.5.0 \
    && PYTHONPATH=/opt/unirig /opt/cyclonedx/bin/cyclonedx-py environment --output-reproducible \
        --output-file /sbom.cdx.json "$(command -v python3)"

FROM ${BASE}
ENV HOME=/tmp \
    PATH=/opt/tritonserver/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    UNIRIG_MODEL_FOLDER=/models
WORKDIR /app
COPY --from=packages /opt/unirig /opt/unirig
COPY --from=sbom /sbom.cdx.json ./
COPY services/inference/__init__.py ./services/inference/
COPY services/inference/model_repository ./services/inference/model_repository
COPY services/inference/unirig_network ./services/inference/unirig_network
# The Python in which Triton runs models is an isolated one: it ignores PYTHONPATH, but not this.
# First, so that packages of the image's own do not shadow ours.
RUN site=$(python3 -c 'import site; print(site.getsitepackages()[0])') \
    && mkdir -p "$site" \
    && echo "import sys; sys.path[:0] = ['/opt/unirig', '/app']" > "$site/unirig.pth" \
    && python3 -m compileall -q services \
    && install -d -o 10001 -g 10001 /models
USER 10001:10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# Not kept by images in OCI format; a cluster asks itself.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/live', timeout=2)"]

ARG BASE
ARG VERSION=1.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="unirig-triton" \
    org.opencontainers.image.description="UniRig service: the networks in a Triton Inference Server" \
    org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.base.name="${BASE}"
# NVIDIA's entry point only prints a banner. The configurations are whole; to complete them Triton
# would start each model twice. Without its checkpoints the server lives and is not ready.
ENTRYPOINT ["tritonserver", \
    "--model-repository=/app/services/inference/model_repository", \
    "--model-control-mode=explicit", \
    "--load-model=unirig_skeleton", \
    "--load-model=unirig_skin", \
    "--disable-auto-complete-config", \
    "--exit-on-error=false"]
# How long requests that run may go on after SIGTERM; a chart may give its own.
CMD ["--exit-timeout-secs=60"]
