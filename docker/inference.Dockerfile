# The inference container: docker buildx build -f docker/inference.Dockerfile --provenance=false .
# It runs cosmicai/packaging, which also assembles the task folder of the embedded AWS.
#checkov:skip=CKV_DOCKER_2:Lambda's runtime watches the container
#checkov:skip=CKV_DOCKER_3:Lambda runs it as an unprivileged user of its own, whatever the image says
#checkov:skip=CKV_DOCKER_7:The tag is in BASE
ARG BASE=public.ecr.aws/lambda/python:3.12
# This stage runs on the machine that builds: pip downloads and zig compiles for the image's architecture. No step runs in
# the image itself, so that a build for another architecture needs no emulation.
# hadolint ignore=DL3029
FROM --platform=$BUILDPLATFORM ${BASE} AS packages
ARG TARGETARCH
# lean; torch for users' own scripts and the torch engine; cuda for that engine on GPUs, for amd64 alone.
ARG VARIANT=lean
WORKDIR /source
# pip installs the files whose hashes the locks hold, and nothing else.
COPY functions/inference/requirements.lock functions/inference/requirements-torch.lock functions/inference/torch.lock functions/inference/
COPY functions/inference/requirements-cuda.lock functions/inference/
COPY cosmicai/packaging cosmicai/packaging
RUN python -m cosmicai.packaging packages /task --variant ${VARIANT} --architecture "${TARGETARCH}"
# Packages for users' own scripts with blanks between: NAME==VERSION, --no-deps and --hash=sha256:… if given.
ARG EXTRA_PACKAGES=""
# What needs torch finds the build without CUDA, which torch.lock installs from torch's own index.
RUN if [ "${VARIANT}" = torch ]; then export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; fi; \
  python -m cosmicai.packaging extra /task --extra "${EXTRA_PACKAGES}" --architecture "${TARGETARCH}"
# The compiler of the engine's kernels, only for this stage.
COPY functions/build-requirements.lock functions/
RUN python -m pip install --quiet --no-cache-dir --no-deps --only-binary :all: --require-hashes --requirement functions/build-requirements.lock
COPY functions/contract functions/contract
COPY functions/inference functions/inference
RUN python -m cosmicai.packaging code /code --architecture "${TARGETARCH}"

# Docker uses this platform anyway; buildah would use that of the first stage.
# hadolint ignore=DL3029,DL3065
FROM --platform=$TARGETPLATFORM ${BASE}
# Ordered by change: packages seldom, the model and the code often.
COPY --from=packages /task ${LAMBDA_TASK_ROOT}
COPY --from=packages /code ${LAMBDA_TASK_ROOT}
# With a handler's name it waits for Lambda, with `rank` it is a job of AWS Batch, with `serve` it answers SageMaker.
ENTRYPOINT ["python", "-m", "inference"]
CMD ["inference.handler.handler"]
