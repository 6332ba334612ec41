# The inference container: docker buildx build -f docker/inference.Dockerfile --provenance=false .
# Both stages run cosmicai/packaging.py, which also assembles the task folder of the embedded AWS.
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
COPY requirements.lock ./
COPY functions/inference/requirements.txt functions/inference/requirements.lock functions/inference/requirements-torch.txt functions/inference/
COPY cosmicai/packaging.py cosmicai/
RUN python cosmicai/packaging.py packages /task --variant ${VARIANT}
# Packages for users' own scripts, NAME==VERSION or NAME==VERSION --no-deps, with blanks between.
ARG EXTRA_PACKAGES=""
RUN python cosmicai/packaging.py extra /task --extra "${EXTRA_PACKAGES}"
# The compiler of the engine's kernels, for this stage alone.
COPY functions/build-requirements.txt functions/
RUN python -m pip install --quiet --no-cache-dir --constraint requirements.lock --requirement functions/build-requirements.txt
COPY functions/inference functions/inference
RUN python cosmicai/packaging.py code /code

FROM ${BASE}
# Ordered by change: packages seldom, the model and the code often.
COPY --from=packages /task ${LAMBDA_TASK_ROOT}
COPY --from=packages /code ${LAMBDA_TASK_ROOT}
ENTRYPOINT ["python", "-m", "awslambdaric"]
CMD ["inference.handler.handler"]
