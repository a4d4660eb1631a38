# TensorFlow Serving with an export in the image. Not built where this project is developed; checked by
# hadolint. In the root of the repository:
#   docker build -f serving/docker/tensorflow-serving.Dockerfile -t tfgpt2-tensorflow-serving .
#   docker run --rm -p 127.0.0.1:8501:8501 -p 127.0.0.1:8500:8500 tfgpt2-tensorflow-serving
# The stage `export` alone (--target export) is the image of kubernetes/loader.
FROM python:3.11-slim-bookworm AS export
ARG MODEL=shakespeare-tiny
COPY pyproject.toml README.md LICENSE /source/
COPY tfgpt2 /source/tfgpt2
RUN pip install --no-cache-dir /source && rm -r /source
RUN tfgpt2 export "/export/${MODEL}/1" --model "${MODEL}"
USER 65532:65532

FROM tensorflow/serving:2.18.0
COPY --from=export /export /models
COPY serving/models.config serving/monitoring.config /config/
USER 65532:65532
EXPOSE 8500 8501
# The entry point of the image passes these to the server.
CMD ["--model_config_file=/config/models.config", \
     "--monitoring_config_file=/config/monitoring.config", \
     "--rest_api_timeout_in_ms=120000", \
     "--xla_cpu_compilation_enabled=true"]
