# Two images from one file: `--target operator` and `--target sidecar`. Nothing but what the lock
# files name by hash is fetched, and each image holds the code of its own plane only.
ARG BASE_IMAGE=docker.io/library/python:3.13-slim
# The same Python with a C compiler, which no image keeps.
ARG COMPILER_IMAGE=docker.io/library/python:3.13

FROM ${BASE_IMAGE} AS build
RUN ["python", "-m", "venv", "--without-pip", "/venv"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app

FROM build AS build-operator
COPY locks/operator.txt /locks/
RUN ["python", "-m", "pip", "--python", "/venv/bin/python", "install", "--require-hashes", "--only-binary=:all:", "--requirement", "/locks/operator.txt"]
COPY contract operator ./
RUN ["/venv/bin/python", "-m", "compileall", "-q", "."]

FROM ${COMPILER_IMAGE} AS compile-sidecar
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY locks/sidecar.txt locks/compile.txt /locks/
RUN ["python", "-m", "pip", "install", "--require-hashes", "--only-binary=:all:", "--requirement", "/locks/sidecar.txt", "--requirement", "/locks/compile.txt"]
COPY pyproject.toml hatch_build.py ./
COPY contract contract
COPY batcher_sidecar batcher_sidecar
RUN ["python", "hatch_build.py"]

FROM build AS build-sidecar
COPY locks/sidecar.txt /locks/
RUN ["python", "-m", "pip", "--python", "/venv/bin/python", "install", "--require-hashes", "--only-binary=:all:", "--requirement", "/locks/sidecar.txt"]
COPY --from=compile-sidecar /app/build/compiled ./
RUN ["/venv/bin/python", "-m", "compileall", "-q", "."]

FROM ${BASE_IMAGE} AS base
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001

FROM base AS operator
COPY --from=build-operator /venv /venv
COPY --from=build-operator /app /app
EXPOSE 8080
ENTRYPOINT ["python", "-m", "tidegate_operator"]

FROM base AS sidecar
COPY --from=build-sidecar /venv /venv
COPY --from=build-sidecar /app /app
EXPOSE 9000 9002
ENTRYPOINT ["python", "-m", "tidegate_sidecar"]
