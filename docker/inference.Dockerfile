# The inference container: docker buildx build -f docker/inference.Dockerfile --provenance=false .
# It runs cosmicai/packaging, which also assembles the task folder of the embedded AWS.
#checkov:skip=CKV_DOCKER_2:Lambda's runtime watches the container
#checkov:skip=CKV_DOCKER_3:Lambda runs it as an unprivileged user of its own, whatever the image says
#checkov:skip=CKV_DOCKER_7:The tag stands in BASE
ARG BASE=public.ecr.aws/lambda/python:3.12
FROM ${BASE} AS packages
# lean, or torch for users' own scripts and the torch engine.
ARG VARIANT=lean
# torch's own index holds builds without CUDA, which are a tenth of the size.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /source
# pip installs the files whose hashes the locks hold, and nothing else.
COPY functions/inference/requirements.lock functions/inference/requirements-torch.lock functions/inference/torch.lock functions/inference/
COPY cosmicai/packaging cosmicai/packaging
RUN python -m cosmicai.packaging packages /task --variant ${VARIANT}
# Packages for users' own scripts with blanks between: NAME==VERSION, --no-deps and --hash=sha256:… if given.
ARG EXTRA_PACKAGES=""
RUN python -m cosmicai.packaging extra /task --extra "${EXTRA_PACKAGES}"
# The compiler of the engine's kernels, for this stage alone.
COPY functions/build-requirements.lock functions/
RUN python -m pip install --quiet --no-cache-dir --no-deps --only-binary :all: --require-hashes --requirement functions/build-requirements.lock
COPY functions/contract functions/contract
COPY functions/inference functions/inference
RUN python -m cosmicai.packaging code /code

FROM ${BASE}
# Ordered by change: packages seldom, the model and the code often.
COPY --from=packages /task ${LAMBDA_TASK_ROOT}
COPY --from=packages /code ${LAMBDA_TASK_ROOT}
# With a handler's name it waits for Lambda, with `rank` it is a job of AWS Batch, with `serve` it answers SageMaker.
ENTRYPOINT ["python", "-m", "inference"]
CMD ["inference.handler.handler"]
