# The package and the command `ccnet`. For a CPU; with --build-arg EXTRA=cuda13 for NVIDIA GPUs, whose driver the
# host brings. docs/install.md says how to run it.
FROM python:3.12-slim
ARG EXTRA=""
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE requirements*.txt ./
COPY ccnet_jax ccnet_jax
COPY kernels kernels
COPY configs configs
RUN pip install --no-cache-dir --require-hashes --requirement requirements-lock.txt \
    && pip install --no-cache-dir ".${EXTRA:+[$EXTRA]}" && rm -r /source

RUN useradd --uid 1000 --create-home ccnet && mkdir -p /work/runs /work/cache && chown -R ccnet /work
USER ccnet
WORKDIR /work
ENV XDG_CACHE_HOME=/work/cache PYTHONUNBUFFERED=1
ENTRYPOINT ["ccnet"]
